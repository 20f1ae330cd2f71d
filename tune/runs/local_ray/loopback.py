"""A Ray that is started here listens on this machine's loopback address alone, as far as it can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a Ray that is started within the block take loopback as its node's address, and bind its ports there.

    To join such a Ray by a loopback address takes the same.

    Why: on Linux Ray replaces 127.0.0.1 by the machine's own address, where other machines reach it; on macOS it does
    not. `ray._private.ray_constants.ENABLE_RAY_CLUSTER` decides, and no option of Ray's that acts after its import. It
    is as before after the block, because a cluster that is joined later needs it. Held by:
    test_a_ray_that_is_started_here_is_the_users_alone.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
