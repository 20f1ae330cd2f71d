"""What joining a cluster relies on in Ray's private names (`tune.runs.joined_ray.ray_private`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tune.runs.joined_ray.ray_private import find_cluster, nodes_here


def test_auto_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:4321")
    assert find_cluster() == "127.0.0.1:4321"


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_of_this_machine_is_found_by_its_process() -> None:
    import ray

    assert ray.get_runtime_context().get_node_id() in nodes_here()


def test_a_token_that_is_there_is_shown_from_then_on(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t" * 64)
    code = "import os, ray; from tune.runs.joined_ray.ray_private import show_token; show_token(); "
    code += "print(os.environ.get('RAY_AUTH_MODE'))"
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment = {**without, "HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout == "token\n"
