"""Nodes that do not see the run's folder, the photos or the weights are found out before work is given to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.data.dataset import prepare
from maskcls.errors import RunError
from maskcls.stores.cache_options import CacheOptions
from tests.conftest import DemoFaces
from tests.tune.searches import new_run
from tune.runs.folder import SearchRun
from tune.runs.nodes import check_nodes, unseen


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
