"""Finds a Ray cluster at an address, and says within seconds, before Ray is joined, if it cannot be."""

from __future__ import annotations

import os
import socket

from maskcls.command_line import environment
from maskcls.errors import CallError, RunError
from tune.runs.joined_ray.probe import check_joinable
from tune.runs.joined_ray.ray_private import find_cluster, show_token

AUTO = "auto"
ADDRESS_VARIABLE = "RAY_ADDRESS"
CLIENT = "ray://"
"""How an address of Ray Client begins. Its driver is another process, of which this one knows too little."""
CONNECT_TIMEOUT_S = 5


def reach(address: str) -> None:
    """See that Ray at the address can be joined, and let this process show its token where the cluster asks for one.

    Raises RunError, with what to do: nothing listens there, it is no Ray or another version's, or a token is refused.
    """
    found = host_and_port(address)
    if found is not None:
        refuse_silence(found)
        if check_joinable(found):
            show_token()


def refuse_client(given: str | None) -> str | None:
    """Return the address that is given. Raises CallError where it, or without one RAY_ADDRESS, is one of Ray Client.

    RAY_ADDRESS is set in a job that was submitted to a cluster.
    """
    if (address := given or os.environ.get(ADDRESS_VARIABLE)) and address.startswith(CLIENT):
        host = address.removeprefix(CLIENT).rpartition(":")[0] or "HOST"
        raise CallError(
            f"--address {address} is one of Ray Client, through which no search or comparison can be driven. Expected "
            f"host:port of the cluster itself, by default {host}:6379, or `auto` on one of its machines."
        )
    return address


def host_and_port(address: str) -> str | None:
    """Return where the cluster is; for `auto` what Ray on this machine has noted. None: a name that Ray alone knows.

    Raises RunError where `auto` finds nothing.
    """
    if address == AUTO:
        try:
            address = find_cluster()
        except ConnectionError:
            raise RunError(
                f"--address {AUTO} finds no Ray that runs on this machine. Start it with `ray start --head`, or give "
                "HOST:PORT of the cluster."
            ) from None
    host, colon, port = address.rpartition(":")
    return None if "/" in host or not colon or not port.isdigit() else address


def refuse_silence(address: str) -> None:
    """Raise RunError within seconds if nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise out_of_reach(address, f"{error}.") from None


def is_on_loopback(address: str | None) -> bool:
    """Whether Ray is started here, or is one that was started so by a command and listens on loopback alone."""
    return not address or address.rpartition(":")[0] in environment.LOOPBACK


def out_of_reach(address: str | None, said: str) -> RunError:
    """Return the error that Ray does not answer at an address; where the environment names it, this is said."""
    if address == os.environ.get(ADDRESS_VARIABLE):
        return RunError(
            f"Ray at {address} cannot be reached, which {ADDRESS_VARIABLE} names: {said} Unset {ADDRESS_VARIABLE} to "
            "use this machine alone, or name another --address."
        )
    return RunError(
        f"Ray at {address} cannot be reached: {said} Start it with `ray start --head`, or name another --address."
    )
