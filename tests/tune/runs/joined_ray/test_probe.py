"""A cluster is asked what it is before it is joined: what it says, and each way in which it refuses."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from maskcls.errors import RunError
from tune.runs.joined_ray import probe
from tune.runs.joined_ray.probe import _check_versions, check_joinable, live_nodes, states
from tune.runs.joined_ray.token import MODE_VARIABLE, find_token

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def test_a_cluster_that_asks_for_a_token_gets_the_one_that_is_here(ray_cluster: str) -> None:
    assert check_joinable(ray_cluster)


def test_a_wrong_token_is_refused_and_its_place_named(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "f" * 64)
    with pytest.raises(RunError, match=rf"Ray at {ray_cluster} refuses the token of {TOKEN}: put there what"):
        check_joinable(ray_cluster)


def test_where_there_is_no_token_it_is_said_how_to_get_one(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setenv(TOKEN_PATH, str(tmp_path / "nothing"))
    to = re.escape(f"copy ~/.ray/auth_token of the cluster's head to {tmp_path / 'nothing'} here")
    with pytest.raises(RunError, match=rf"asks for a token, and there is none here: {to}"):
        check_joinable(ray_cluster)


def test_a_mode_that_shows_no_token_is_named(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "disabled")
    with pytest.raises(RunError, match=rf"asks for a token, and {MODE_VARIABLE} is disabled here"):
        check_joinable(ray_cluster)


def test_the_nodes_of_a_cluster_and_what_is_free_on_them(ray_cluster: str) -> None:
    (node,) = live_nodes(ray_cluster)
    assert node.is_head
    assert node.is_alive
    assert node.used["cores"][1] == 2
    assert "GPUs" not in node.used
    assert states([node]) == "1 node alive"


@pytest.fixture
def web_server() -> Iterator[str]:
    """A server of HTTP, as Ray's dashboard is one."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_what_listens_and_is_no_ray_is_named_so(web_server: str) -> None:
    with pytest.raises(RunError, match=rf"^{web_server} does not answer as Ray does \(.*8265 is its dashboard's\.$"):
        check_joinable(web_server)


def test_what_listens_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ANSWER_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(RunError, match="does not answer as Ray does"):
            check_joinable(f"127.0.0.1:{silent.getsockname()[1]}")


def test_another_version_of_ray_or_python_is_named() -> None:
    mine = version("ray")
    with pytest.raises(
        RunError, match=rf"^Ray at h:1 is version 2\.1\.0, and here it is {mine}: .*Install ray==2\.1\.0"
    ):
        _check_versions("h:1", {"ray_version": "2.1.0", "python_version": "3.11.7"})
    with pytest.raises(RunError, match=r"^Python at h:1 is version 3\.9\.1, and here it is 3\."):
        _check_versions("h:1", {"ray_version": mine, "python_version": "3.9.1"})
    _check_versions("h:1", {})


def test_the_token_is_looked_for_where_ray_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (TOKEN, TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    other = tmp_path / "other"
    other.write_text("file")
    places = [find_token()]
    monkeypatch.setenv(TOKEN_PATH, str(other))
    places.append(find_token())
    monkeypatch.setenv(TOKEN, "stated")
    places.append(find_token())
    assert [(one.text, one.place) for one in places if one] == [
        ("home", str(tmp_path / ".ray" / "auth_token")),
        ("file", str(other)),
        ("stated", TOKEN),
    ]
    assert "stated" not in repr(places), "it is not shown by accident"
    monkeypatch.setenv(TOKEN, "tök en")
    found = find_token()
    assert found is not None
    assert found.place == str(other), "what no message can carry is none"
    assert os.environ["HOME"] == str(tmp_path)


def test_a_cluster_without_a_node_here_is_refused(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    monkeypatch.setattr(services, "find_node_ids", lambda: {"0" * 56})
    with pytest.raises(RunError, match=rf"^Ray at {ray_cluster} has no node on this machine, and a driver needs one"):
        check_joinable(ray_cluster)
