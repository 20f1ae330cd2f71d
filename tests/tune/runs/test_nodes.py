"""Nodes that do not see the run's folder, the photos or the weights are found out before work is given to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.data.dataset import prepare
from maskcls.errors import RunError
from maskcls.stores.cache_options import CacheOptions
from tests.conftest import DemoFaces
from tests.tune.searches import new_run
from tune.runs import nodes
from tune.runs.folder import SearchRun
from tune.runs.joined_ray import nodes_aside
from tune.runs.joined_ray.nodes_aside import LiveNode, is_aside
from tune.runs.nodes import Problem, check_nodes, unseen


@pytest.fixture
def run(tmp_path: Path, demo_faces: DemoFaces) -> SearchRun:
    made = new_run(tmp_path)
    prepare(demo_faces(18, 1), cache=CacheOptions(tmp_path / "cache")).save(made.data)
    return made


def test_a_node_sees_what_is_there(tmp_path: Path) -> None:
    assert unseen([tmp_path, tmp_path / "nothing"]) == [tmp_path / "nothing"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_sees_run_and_photos_is_taken_and_nothing_stays(run: SearchRun) -> None:
    before = sorted(run.path.iterdir())
    check_nodes(run, ["none", "hub", str(run.data)], fewest=1)
    assert sorted(run.path.iterdir()) == before


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_without_the_photos_is_named_before_any_trial(run: SearchRun) -> None:
    table = run.data / "photos.csv"
    table.write_text(table.read_text().replace("/train/images/", "/elsewhere/"))
    with pytest.raises(
        RunError, match=r"1 of 1 node of the cluster cannot take part: [\d.]+ does not see /.*/elsewhere/.*\. All nodes"
    ):
        check_nodes(run, [], fewest=1)


def test_a_node_that_does_not_answer_is_set_aside_where_another_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one whose disk is full; one that has gone since needs nothing."""
    there = {name: LiveNode(name, f"10.0.0.{name}", 2, 0.0) for name in "12"}
    for module in (nodes, nodes_aside):
        monkeypatch.setattr(module, "alive", lambda: there)
    mute = [Problem(name, f"10.0.0.{name}", "did not answer within 60 s", is_answer=False) for name in "123"]
    blind = Problem("2", "10.0.0.2", "does not see /faces", is_answer=True)
    try:
        assert nodes._of_the_living([mute[0], mute[2]], 3, 0.0) == [mute[0]], "the other one is too small"
        assert nodes._of_the_living([mute[0], blind, mute[2]], 1, 0.0) == [mute[0], blind], "it does not see the photos"
        assert nodes._of_the_living([mute[0], mute[2]], 1, 0.0) == []
        assert is_aside("1")
        assert not is_aside("3")
        said = capsys.readouterr()
        assert said.err + said.out == "Node 10.0.0.1 did not answer within 60 s. It gets no work from this command.\n"
        assert nodes._of_the_living(mute, 1, 0.0) == mute[:2], "nobody is left"
    finally:
        nodes_aside._aside.clear()


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_without_the_weights_is_named(run: SearchRun, tmp_path: Path) -> None:
    """Else each of its trials would fail on its own, for want of weights that the driver has checked."""
    elsewhere = tmp_path / "weights"
    with pytest.raises(RunError, match=rf"does not see {elsewhere}\. All nodes must see the photos, the weights and"):
        check_nodes(run, ["hub", str(elsewhere)], fewest=1)


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_without_the_runs_folder_is_named(run: SearchRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's file is not there when the node looks, as it is not on another machine's own disk."""
    monkeypatch.setattr(Path, "touch", lambda path: None)
    with pytest.raises(RunError, match=rf"does not see {run.path}\. All nodes must see the photos, the weights and"):
        check_nodes(run, [], fewest=1)
