"""What joining a cluster relies on in Ray's private names (`tune.runs.joined_ray.ray_private`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tune.runs.joined_ray.ray_private import find_cluster, leaving_nodes, nodes_here
from tune.search import actors


def test_auto_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.7:4321")
    assert find_cluster() == "192.0.2.7:4321"


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


@pytest.mark.usefixtures("ray_cluster")
def test_nodes_that_stay_are_not_among_those_that_leave() -> None:
    """One that leaves: test_a_node_that_is_drained_hands_its_trial_on_within_the_notice of tests/cluster, where there
    are several nodes."""
    assert leaving_nodes() == set()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_placement_group_keeps_away_from_a_node_by_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leans: tune.search.actors and tune.fitting.pool, by `tune.runs.joined_ray.nodes_aside.elsewhere`.

    If it fails: see how Ray selects nodes by their labels by now.
    """
    import ray

    selector: dict[str, str] | None = None
    monkeypatch.setattr(actors, "elsewhere", lambda cpus, gpus: selector)
    asked, here = actors.Elsewhere([{"CPU": 1}]), ray.get_runtime_context().get_node_id()
    assert asked == actors.Elsewhere([{"CPU": 1}])
    for selector, is_placed in (
        (None, True),
        ({"ray.io/node-id": f"!in({here})"}, False),
        ({"ray.io/node-id": f"!in({'0' * 56},{'1' * 56})"}, True),
    ):
        group = asked.to_placement_group()
        assert group.wait(5 if is_placed else 1) is is_placed
        ray.util.remove_placement_group(group)
        task = ray.remote(num_cpus=1, label_selector=selector)(nodes_here).remote()
        assert bool(ray.wait([task], timeout=30 if is_placed else 1)[0]) is is_placed
        if not is_placed:  # to cancel a task whose result has just come may end the process (`tune.fitting.pool`)
            ray.cancel(task)
