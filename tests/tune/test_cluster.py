"""What is said where Ray is not."""

import socket

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
