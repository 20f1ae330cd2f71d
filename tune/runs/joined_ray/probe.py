"""Asks a Ray cluster for what it is and which nodes it has, without joining it.

Ray itself tries for 20 s before it says that a token is refused, and starts a driver before it says what nodes there
are. The messages are those of Ray's own protocol (`ray.core.generated`), sent to the cluster's control store (GCS).
Held by: tests/cluster/test_way_in.py and tests/tune/runs/joined_ray/test_probe.py.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from maskcls.errors import RunError
from maskcls.text import shown
from tune.runs.joined_ray.ray_private import nodes_here
from tune.runs.joined_ray.token import MODE_VARIABLE, Token, find_token, token_file

_ANSWER_S = 10.0
"""A head answers within milliseconds, whatever it answers; this is for one that is short of processors."""
_TLS_VARIABLE = "RAY_USE_TLS"
_LEVEL_VARIABLE = "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL"
_FREE = {"CPU": "cores", "GPU": "GPUs"}


@dataclass(frozen=True)
class LiveNode:
    """A node of a cluster, as the cluster sees it now."""

    address: str
    is_head: bool
    is_alive: bool
    total: Mapping[str, float]
    """By Ray's name of a resource, as CPU or GPU."""
    free: Mapping[str, float]

    @property
    def used(self) -> dict[str, tuple[float, float]]:
        """What is in use and what there is, of cores and GPUs: none of what the node does not have."""
        return {
            word: (self.total[name] - self.free.get(name, 0.0), self.total[name])
            for name, word in _FREE.items()
            if self.total.get(name)
        }


def check_joinable(address: str) -> bool:
    """Raise RunError where Ray at host:port lets this process not in, has another version, or no node on this machine.

    Returns whether the cluster asks for a token, which this process has.
    """
    if os.environ.get(_TLS_VARIABLE, "0") not in ("", "0"):  # certificates are Ray's own affair
        return False
    with _Channel(address) as gcs:
        _check_versions(address, gcs.metadata())
        _check_node_here(address, gcs.nodes())
        return gcs.asks_for_token


def live_nodes(address: str) -> list[LiveNode]:
    """Return the nodes of the cluster at host:port, the head first and then by address, also those that have died.

    Raises RunError where it does not answer, or not to this process.
    """
    with _Channel(address) as gcs:
        nodes, free = gcs.nodes(), gcs.free()
    found = [
        LiveNode(
            node.node_manager_address,
            bool(node.is_head_node),
            node.state == node.ALIVE,
            dict(node.resources_total),
            free.get(node.node_id, {}),
        )
        for node in nodes
    ]
    return sorted(found, key=lambda node: (not node.is_alive, not node.is_head, node.address))


def states(nodes: Iterable[LiveNode]) -> str:
    """Say how many nodes live, as in `2 nodes alive, 1 dead`."""
    count = Counter(node.is_alive for node in nodes)
    dead = f", {count[False]} dead" if count[False] else ""
    return f"{count[True]} {'node' if count[True] == 1 else 'nodes'} alive{dead}"


class _Channel:
    """A connection to a cluster's GCS. Each message has a time limit, and shows this process's token if it is asked."""

    def __init__(self, address: str) -> None:
        import grpc

        self._address = address
        self._grpc = grpc
        # A proxy of the environment is for the web.
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._token: Token | None = None
        self.asks_for_token = False

    def __enter__(self) -> _Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def metadata(self) -> dict[str, Any]:
        """Return what the head noted when it started: the versions of Ray and Python; {} where it noted nothing."""
        from ray.core.generated import gcs_service_pb2 as messages

        asked = messages.InternalKVGetRequest(namespace=b"cluster", key=b"CLUSTER_METADATA")
        reply = self._call("InternalKVGcsService", "InternalKVGet", asked, messages.InternalKVGetReply)
        try:
            found = json.loads(reply.value) if reply.value else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}

    def nodes(self) -> list[Any]:
        """Return all nodes that there are or were, as GcsNodeInfo."""
        from ray.core.generated import gcs_service_pb2 as messages

        asked = messages.GetAllNodeInfoRequest()
        return list(
            self._call("NodeInfoGcsService", "GetAllNodeInfo", asked, messages.GetAllNodeInfoReply).node_info_list
        )

    def free(self) -> dict[bytes, dict[str, float]]:
        """Return what is not in use, by node and by resource."""
        from ray.core.generated import gcs_service_pb2 as messages

        asked, reply = messages.GetAllAvailableResourcesRequest(), messages.GetAllAvailableResourcesReply
        found = self._call("NodeResourceInfoGcsService", "GetAllAvailableResources", asked, reply)
        return {one.node_id: dict(one.resources_available) for one in found.resources_list}

    def _call(self, service: str, method: str, message: Any, reply: Any) -> Any:
        """Send a message, with the token if the cluster has asked for it, and return the reply. Raises RunError."""
        send = self._channel.unary_unary(
            f"/ray.rpc.{service}/{method}",
            request_serializer=type(message).SerializeToString,
            response_deserializer=reply.FromString,
        )
        try:
            shows = [("authorization", f"Bearer {self._token.text}")] if self._token else []
            return send(message, timeout=_ANSWER_S, metadata=shows)
        except self._grpc.RpcError as error:
            if error.code() != self._grpc.StatusCode.UNAUTHENTICATED:
                raise RunError(_no_answer(self._address, error.code().name, str(error.details()))) from None
            if self._token is not None:
                raise RunError(_wrong_token(self._address, self._token)) from None
        self._token = _token_for(self._address)
        self.asks_for_token = True
        return self._call(service, method, message, reply)


def _token_for(address: str) -> Token:
    mode = os.environ.get(MODE_VARIABLE, "token")
    if mode.lower() != "token":
        raise RunError(
            f"Ray at {address} asks for a token, and {MODE_VARIABLE} is {shown(mode)} here, so that none is shown: "
            "unset it, or set it to token."
        )
    found = find_token()
    if found is None:
        raise RunError(
            f"Ray at {address} asks for a token, and there is none here: copy ~/.ray/auth_token of the cluster's head "
            f"to {shown(token_file())} here, or give what `ray get-auth-token` prints there as RAY_AUTH_TOKEN."
        )
    return found


def _wrong_token(address: str, token: Token) -> str:
    return (
        f"Ray at {address} refuses the token of {token.place}: put there what `ray get-auth-token` prints on the "
        "cluster's head."
    )


def _no_answer(address: str, code: str, details: str) -> str:
    return (
        f"{address} does not answer as Ray does ({code}: {shown(' '.join(details.split())[:200])}). Expected host:port "
        "of the cluster itself, by default port 6379; 8265 is its dashboard's."
    )


def _check_node_here(address: str, nodes: Iterable[Any]) -> None:
    """Raise RunError where no node of the cluster is on this machine, for which Ray would look for a minute."""
    alive = {node.node_id.hex() for node in nodes if node.state == node.ALIVE}
    if not alive & nodes_here():
        raise RunError(
            f"Ray at {address} has no node on this machine, and a driver needs one: start one with `ray start "
            f"--address={address}`, or let the cluster run the command with `ray job submit`."
        )


def _check_versions(address: str, noted: Mapping[str, Any]) -> None:
    """Raise RunError where the cluster has another version of Ray or of Python, as Ray would after its start."""
    parts = 2 if os.environ.get(_LEVEL_VARIABLE) == "minor" else 3
    own = {"Ray": version("ray"), "Python": platform.python_version()}
    for name, key in (("Ray", "ray_version"), ("Python", "python_version")):
        theirs, mine = str(noted.get(key, "")), own[name]
        short = parts if name == "Python" else None
        if theirs and theirs.split(".")[:short] != mine.split(".")[:short]:
            raise RunError(
                f"{name} at {address} is version {theirs}, and here it is {mine}: Ray wants the same on all machines. "
                f"Install {theirs if name == 'Python' else f'ray=={theirs}'} here, or {mine} there."
            )
