"""Private names of Ray that joining a cluster needs, because Ray publishes none for it. Each says why, and which test
holds it."""

from __future__ import annotations


def find_cluster() -> str:
    """Return the address that `auto` means to Ray: what RAY_ADDRESS says, or the Ray that runs on this machine.

    Why: Ray says it only by joining the cluster. Held by: test_auto_is_what_the_environment_says.

    Raises ConnectionError where there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address("auto") or ""


def nodes_here() -> set[str]:
    """Return the ids of the nodes whose processes run on this machine, of whatever cluster.

    Why: a driver needs such a node, and without one Ray waits for a minute. Held by:
    test_a_node_of_this_machine_is_found_by_its_process.
    """
    from ray._private.services import find_node_ids

    return set(find_node_ids())


def leaving_nodes() -> set[str]:
    """Return the ids of the nodes that are to leave the joined cluster with notice, as by `ray drain-node`.

    Why: `ray.nodes` does not say it. Held by:
    test_nodes_that_stay_are_not_among_those_that_leave, which names the test of one that leaves.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def show_token() -> None:
    """Let this process, and what it starts, show its token from now on, as Ray does by itself for the address auto.

    Why: Ray reads RAY_AUTH_MODE when it is imported; where that was before, its own function tells it again. Held by:
    test_a_token_that_is_there_is_shown_from_then_on.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
