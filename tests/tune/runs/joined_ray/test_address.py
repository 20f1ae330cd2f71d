"""An address is looked at before Ray is joined."""

from __future__ import annotations

import socket

import pytest

from maskcls.errors import RunError
from tune.runs.joined_ray.address import host_and_port, reach, refuse_silence


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RunError, match=rf"Ray at {address} cannot be reached: .*refused.*ray start --head"):
            refuse_silence(address)


def test_names_that_are_no_host_and_port_are_left_to_ray() -> None:
    for address in ("local", "redis://one:1", "host"):
        assert host_and_port(address) is None
        reach(address)


def test_an_address_is_taken_as_it_is() -> None:
    assert host_and_port("head.example:6379") == "head.example:6379"
    assert host_and_port("[fd00::2]:6379") == "[fd00::2]:6379"
