"""Nodes of a cluster that get no further work of this process: work there keeps failing, or they are about to leave.

Ray knows nothing of the former. Each request for cores therefore says, by the label that Ray gives to every node, which
nodes it does not want.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maskcls.errors import DataError
from tune.runs import cluster, events
from tune.runs.folder import ComparisonRun, RunFolder, SearchRun
from tune.runs.joined_ray import gpu_types

_LABEL = "ray.io/node-id"
_aside: set[str] = set()
"""Ids of Ray. Of the whole process, because Ray makes requests for cores from copies that it has unpickled."""
MAX_FAILURES = 3
"""How many trials, or fits, in a row the machine may fail on a node, if nobody says."""


@dataclass
class _Allowed:
    failures: int = MAX_FAILURES


_allowed = _Allowed()


def allow(failures: int) -> None:
    """From now on, set a node aside after so many failures in a row by the machine, without a new epoch in between."""
    _allowed.failures = failures


def allowed() -> int:
    """After how many failures in a row by the machine a node is set aside."""
    return _allowed.failures


@dataclass(frozen=True)
class LiveNode:
    """A node of the cluster that this process has joined, which is alive."""

    node_id: str
    address: str
    cpus: float
    gpus: float
    gpu_type: str = ""


def node_here() -> str:
    """Return the id of the node on which this process works; "" outside Ray."""
    if not cluster.is_up():
        return ""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def alive() -> dict[str, LiveNode]:
    """Return the nodes that are alive, by their ids; none outside Ray."""
    if not cluster.is_up():
        return {}
    import ray

    return {
        node["NodeID"]: LiveNode(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
            gpu_types.type_of(node["Resources"]),
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def node_at(address: str, likely: str = "") -> str:
    """Return the id of the live node at an address; "" where there is none, or several that look alike.

    Args:
        likely: the id of one that it probably is, and is in any case where the address is "".
    """
    there = {node.node_id for node in alive().values() if node.address == address or not address}
    if likely in there:
        return likely
    return there.pop() if address and len(there) == 1 else ""


def set_aside(node_id: str) -> None:
    """Give this node no further work."""
    _aside.add(node_id)


def is_aside(node_id: str) -> bool:
    """Whether the node was set aside."""
    return node_id in _aside


def others(node_id: str, cpus: float, gpus: float) -> list[LiveNode]:
    """Return the other nodes that are alive, not set aside, and have so many cores and GPUs, of the type that is
    wanted."""
    there = [node for node in alive().values() if node.node_id != node_id and not is_aside(node.node_id)]
    large = [node for node in there if node.cpus >= cpus and node.gpus >= gpus]
    return [node for node in large if gpu_types.is_wanted(node.gpu_type, gpus)]


def elsewhere(cpus: float, gpus: float) -> dict[str, str] | None:
    """Return Ray's label selector for all nodes but those set aside; None: any node.

    Where no other node that is alive has so many cores and GPUs, those set aside are better than none.
    """
    if not _aside or not others("", cpus, gpus):
        return None
    return {_LABEL: f"!in({','.join(sorted(_aside))})"}


def telling(run: Path, say: Callable[[str], object]) -> Callable[[LiveNode, str], None]:
    """Return a function that is given a node set aside and a message, and says so: to people, as an event and in the
    record of the run in this folder."""

    def tell(node: LiveNode, message: str) -> None:
        say(message)
        events.emit(events.NodeSetAside(node.address, message))
        for kind in (SearchRun, ComparisonRun):
            if (run / kind.record_name).is_file():
                with suppress(DataError, OSError):  # the record is not what the work is about
                    _note(kind(run), message)

    return tell


def _note(run: RunFolder, message: str) -> None:
    """Note a node set aside in what the run's record says of this driver."""
    record = run.record()
    if record.sessions:
        *before, last = record.sessions
        noted = last.changed(nodes_aside=[*last.nodes_aside, message])
        run.write_record(record.changed(sessions=[*before, noted]))
