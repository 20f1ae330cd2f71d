"""What is said where Ray is not."""

import socket
import time

import pytest

from maskcls.errors import RunError
from tune import cluster


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RunError, match=rf"Ray at {address} cannot be reached: .*refused.*ray start --head"):
            cluster._refuse_silence(address)


def test_names_that_are_no_host_and_port_are_left_to_ray() -> None:
    for address in (None, "auto", "ray://127.0.0.1:1", "local"):
        cluster._refuse_silence(address)


def test_ray_starts_beside_the_block_and_stays_until_its_end() -> None:
    """Its processes would be ended with the thread that started them."""
    import ray

    with cluster.starting(None) as ready:
        there = ready()
        assert there.nodes[0].cpus == cluster.local_cpus()
        time.sleep(2)
        assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
        assert ready() is there
    assert not ray.is_initialized()


def test_what_goes_wrong_in_the_block_leaves_no_ray_behind() -> None:
    import ray

    with pytest.raises(ZeroDivisionError), cluster.starting(None):
        _ = 1 / 0
    assert not ray.is_initialized()


def test_a_silent_address_is_told_when_the_cluster_is_asked_for() -> None:
    with pytest.raises(RunError, match="cannot be reached"), cluster.starting("127.0.0.1:1") as ready:
        ready()
    with cluster.starting("127.0.0.1:1"):
        pass
