"""Epochs that nobody states follow a short time budget, and the run keeps them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import search_spaces
from maskcls.data.dataset import FaceDataset, prepare
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.presets import base_recipe
from search_spaces import Setting
from tests.conftest import DemoFaces
from tune.runs.cluster import Cluster, Node
from tune.runs.folder import SearchRun
from tune.runs.record import RankedRecord, SearchRecord, now
from tune.search.epochs import TRAINING, epoch_seconds, epochs_in, within_the_budget
from tune.search.options import SearchOptions, resolve
from tune.search.plan import SearchPlan
from tune.search.ranking import to_rank

RANKING = [
    RankedRecord(backbone="resnet10t", f1=0.3, photo_ms=10.0),
    RankedRecord(backbone="resnet18", f1=0.2, photo_ms=25.0),
    RankedRecord(backbone="lcnet_100"),
]


@pytest.mark.parametrize(
    ("budget_s", "turns", "epochs"),
    [(300, 3, 1), (410, 3, 2), (600, 3, 2), (3_600, 3, 13), (20, 3, 1), (600, 1, 7)],
)
def test_so_many_fits_in_turn_end_within_the_budget(budget_s: float, turns: int, epochs: int) -> None:
    assert epochs_in(budget_s, 90.0, turns) == epochs


def test_an_epoch_takes_what_the_pass_through_its_backbones_says(demo_faces: DemoFaces, tmp_path: Path) -> None:
    faces = prepare(demo_faces(24, 4), cache=CacheOptions(tmp_path / "cache"))
    photos = {side: len(faces.rows(side)) for side in ("train", "validation")}
    per_ms = (TRAINING * photos["train"] + photos["validation"]) / 1e3
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    assert epoch_seconds(recipe, RANKING, faces) == pytest.approx(10 * per_ms)
    three = recipe.override({"task_split": "three"})
    assert epoch_seconds(three, RANKING, faces) == pytest.approx(30 * per_ms)
    # The first points are tried on the backbone that was ranked first, and it may be the slower one.
    assert epoch_seconds(recipe, [RANKING[1], RANKING[0]], faces) == pytest.approx(25 * per_ms)
    assert epoch_seconds(recipe.override({"backbone": "lcnet_100"}), RANKING, faces) is None
    assert epoch_seconds(recipe, [], faces) is None


def plan_of(data: Path, **stated: object) -> SearchPlan:
    options = SearchOptions(data=data, weights="hub", scale="cpu", space="freezing", **stated)  # type: ignore[arg-type]
    return resolve(options, Cluster((Node(2, 0),)), has_weights={"resnet10t": True}).plan


@pytest.mark.parametrize(
    ("stated", "follow"),
    [
        ({"time_budget": "5m"}, True),
        ({"time_budget": "5m", "trials": 9}, True),
        ({}, False),
        ({"time_budget": "5m", "epochs": 6}, False),
        ({"time_budget": "5m", "set": ("epochs=6",)}, False),
        ({"time_budget": "5m", "preset": "contest-2021"}, False),
    ],
)
def test_only_unstated_epochs_follow_the_budget(tmp_path: Path, stated: dict[str, object], follow: bool) -> None:
    plan = plan_of(tmp_path, **stated)
    assert plan.fits_epochs == follow
    # One backbone is no choice: it is passed only to be timed.
    assert to_rank(plan) == (["resnet10t"] if follow else [])


@pytest.fixture
def run(demo_faces: DemoFaces, tmp_path: Path) -> SearchRun:
    run = SearchRun.create(tmp_path / "runs", "short", SearchRecord(created=now(), ranking=RANKING, notes=["before"]))
    prepare(demo_faces(24, 4), cache=CacheOptions(tmp_path / "cache")).save(run.data)
    return run


def test_a_short_budget_gives_fewer_epochs_which_the_run_keeps(
    run: SearchRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SearchOptions(cache=tmp_path / "cache", repeats=3)
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    plan = SearchPlan(search_spaces.get("freezing"), Setting("cpu"), recipe, parallel=2, fits_epochs=True)
    faces = FaceDataset.load(run.data, options.cache_options)
    epoch_s = epoch_seconds(recipe, RANKING, faces)
    assert epoch_s is not None
    # A turn of trials and two of repeats, each of four epochs and a bit.
    short = within_the_budget(replace(plan, time_budget_s=3 * 4.4 * epoch_s), run, options)
    assert short.base == recipe.override({"epochs": 4})
    kept = run.record()
    assert kept.base_recipe == short.base.model_dump()
    assert kept.notes[0] == "before"
    assert "so a fit has 4 instead of 6" in kept.notes[1]
    assert "so a fit has 4 instead of 6" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("changed", [{"time_budget_s": None}, {"fits_epochs": False}, {"time_budget_s": 1e6}])
def test_epochs_that_have_room_stay(run: SearchRun, tmp_path: Path, changed: dict[str, object]) -> None:
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    plan = SearchPlan(search_spaces.get("freezing"), Setting("cpu"), recipe, time_budget_s=1.0, fits_epochs=True)
    plan = replace(plan, **changed)  # type: ignore[arg-type]
    assert within_the_budget(plan, run, SearchOptions(cache=tmp_path / "cache")) == plan
    assert run.record().notes == ["before"]
