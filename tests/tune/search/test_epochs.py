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
from tune.runs.study import open_study
from tune.search.epochs import ALL_FITS, FEW, EpochCost, epoch_cost, fit_within, within_the_budget
from tune.search.first_trials import enqueue_initial_trials
from tune.search.options import SearchOptions, resolve
from tune.search.plan import SearchPlan
from tune.search.ranking import to_rank

RANKING = [
    RankedRecord(backbone="resnet10t", f1=0.3, photo_ms=10.0, training_ms=33.0),
    RankedRecord(backbone="resnet18", f1=0.2, photo_ms=25.0, training_ms=50.0),
    RankedRecord(backbone="lcnet_100"),
]


@pytest.mark.parametrize(
    ("budget_s", "turns", "epochs"),
    [
        (300, 3, 1),
        (350, 3, 1),
        (370, 3, 2),
        (410, 3, 2),
        (600, 3, 2),
        (3_600, 3, 13),
        (600, 1, 7),
        (140, 1, 1),
        (345, 1, 4),
    ],
)
def test_whole_epochs_follow_the_budget(budget_s: float, turns: int, epochs: int) -> None:
    cost = EpochCost(training_ms=33.0, photo_ms=10.0, trained=2_600, validated=420)  # 90 s
    assert fit_within(budget_s, cost, turns, 32) == (epochs, 2_600)


@pytest.mark.parametrize(
    ("budget_s", "turns", "drawn"),
    [
        (1_500, 3, 18_250),  # room for a whole epoch, or about so
        (900, 3, 10_000),  # as many as let a trial and its repeats end, and leave a fifth of the budget
        (300, 3, 2_700),
        (200, 3, 3_900),  # both would draw 1,517, fewer than FEW, so there is one
        (100, 3, 1_500),
        (900, 1, 18_250),
        (700, 1, 16_000),
        (1, 3, 32),  # one batch
    ],
)
def test_of_many_photos_or_in_very_little_time_an_epoch_is_a_part(budget_s: float, turns: int, drawn: int) -> None:
    cost = EpochCost(training_ms=33.0, photo_ms=10.0, trained=18_250, validated=2_994)
    epochs, photos = fit_within(budget_s, cost, turns, 32)
    assert (epochs, photos) == (1, drawn)
    if 32 < drawn < cost.trained:
        in_turn = 2 if turns > 1 and cost.drawn_in(ALL_FITS * budget_s / 2) >= FEW else 1
        assert cost.seconds(drawn) * in_turn == pytest.approx(ALL_FITS * budget_s, rel=0.01)


def test_an_epoch_takes_what_the_pass_through_its_backbones_says(demo_faces: DemoFaces, tmp_path: Path) -> None:
    faces = prepare(demo_faces(24, 4), cache=CacheOptions(tmp_path / "cache"))
    photos = {side: len(faces.rows(side)) for side in ("train", "validation")}
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    whole = epoch_cost(recipe, RANKING, faces)
    assert whole == EpochCost(33.0, 10.0, photos["train"], photos["validation"])
    assert whole.seconds() == pytest.approx((33 * photos["train"] + 10 * photos["validation"]) / 1e3)
    assert epoch_cost(recipe.override({"epoch_photos": 9}), RANKING, faces) == replace(whole, trained=9)
    three = recipe.override({"task_split": "three"})
    assert epoch_cost(three, RANKING, faces) == replace(whole, training_ms=99.0, photo_ms=30.0)
    # The first points are tried on the backbone that was ranked first, and it may be the slower one.
    assert epoch_cost(recipe, [RANKING[1], RANKING[0]], faces) == replace(whole, training_ms=50.0, photo_ms=25.0)
    assert epoch_cost(recipe.override({"backbone": "lcnet_100"}), RANKING, faces) is None
    assert epoch_cost(recipe, [], faces) is None
    assert epoch_cost(recipe, [RANKING[0].model_copy(update={"training_ms": None})], faces) is None


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
        ({"time_budget": "5m", "set": ("epoch_photos=500",)}, False),
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
    cost = epoch_cost(recipe, RANKING, faces)
    assert cost is not None
    # A turn of trials and two of repeats, each of four epochs and a bit.
    short = within_the_budget(replace(plan, time_budget_s=3 * 4.4 * cost.seconds()), run, options)
    assert short.base == recipe.override({"epochs": 4})
    kept = run.record()
    assert kept.base_recipe == short.base.model_dump()
    assert kept.notes[0] == "before"
    assert "so a fit has 4 instead of 6" in kept.notes[1]
    assert "so a fit has 4 instead of 6" in " ".join(capsys.readouterr().err.split())


def test_a_very_short_budget_gives_a_part_of_an_epoch(run: SearchRun, tmp_path: Path) -> None:
    """With a whole one, no trial would come to the end of an epoch, and the search would have no model."""
    options = SearchOptions(cache=tmp_path / "cache", repeats=3)
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    cost = epoch_cost(recipe, RANKING, FaceDataset.load(run.data, options.cache_options))
    assert cost is not None
    plan = SearchPlan(search_spaces.get("freezing"), Setting("cpu"), recipe, parallel=2, fits_epochs=True)
    short = within_the_budget(replace(plan, time_budget_s=cost.seconds(), fits_after=9), run, options)
    drawn = short.base.epoch_photos
    assert short.base == recipe.override({"epochs": 1, "epoch_photos": drawn})
    assert 0.75 * cost.trained < drawn < 0.8 * cost.trained, "one fit alone"
    assert short.fits_after == 0
    again = within_the_budget(replace(short, fits_after=9), run, options)
    assert (again.base, again.fits_after) == (short.base, 0), "a resume as well, which has the recorded recipe"
    two = within_the_budget(replace(plan, time_budget_s=2 * cost.seconds(), fits_after=9), run, options)
    assert (two.base.epochs, two.base.epoch_photos, two.fits_after) == (1, 0, 9)
    assert f"so a fit has one of {drawn}" in run.record().notes[1]
    assert short.recipe({"lr_head": 0.1})["epoch_photos"] == drawn, "every trial's"


def test_where_nothing_was_timed_an_epoch_counts_as_slow(run: SearchRun, tmp_path: Path) -> None:
    """The search has a model all the same, where six whole epochs would not end."""
    run.write_record(run.record().changed(ranking=[]))
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    plan = SearchPlan(search_spaces.get("freezing"), Setting("cpu"), recipe, parallel=2, fits_epochs=True)
    faces = FaceDataset.load(run.data, CacheOptions(tmp_path / "cache"))
    guessed_s = (40 * len(faces.rows("train")) + 10 * len(faces.rows("validation"))) / 1e3
    short = within_the_budget(
        replace(plan, time_budget_s=2.1 * guessed_s), run, SearchOptions(cache=tmp_path / "cache")
    )
    assert short.base == recipe.override({"epochs": 1})
    assert "An epoch of all photos was not timed, and may take 5 s here, so a fit has 1" in run.record().notes[1]


def test_a_run_that_has_trials_keeps_its_epochs(run: SearchRun, tmp_path: Path) -> None:
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    plan = SearchPlan(search_spaces.get("freezing"), Setting("cpu"), recipe, time_budget_s=1.0, fits_epochs=True)
    enqueue_initial_trials(open_study(run), plan)
    assert within_the_budget(plan, run, SearchOptions(cache=tmp_path / "cache")).base == recipe


@pytest.mark.parametrize("changed", [{"time_budget_s": None}, {"fits_epochs": False}, {"time_budget_s": 1e6}])
def test_epochs_that_have_room_stay(run: SearchRun, tmp_path: Path, changed: dict[str, object]) -> None:
    recipe = base_recipe("faces-2026", "cpu", {}, demo=False)
    plan = SearchPlan(search_spaces.get("freezing"), Setting("cpu"), recipe, time_budget_s=1.0, fits_epochs=True)
    plan = replace(plan, **changed)  # type: ignore[arg-type]
    assert within_the_budget(plan, run, SearchOptions(cache=tmp_path / "cache")) == plan
    assert run.record().notes == ["before"]
