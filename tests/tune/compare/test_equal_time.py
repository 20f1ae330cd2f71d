"""How many epochs an arm has in the time of the slowest one, from results that are made, and what a run keeps of it."""

from __future__ import annotations

import math
from pathlib import Path

from maskcls.data.splits import Split
from maskcls.recipe import Recipe
from tune.compare.arms import Arm, PlannedComparison, plan_comparison
from tune.compare.equal_time import comparisons_at_equal_time, epochs_in_equal_time
from tune.compare.studies import Comparison, Variant
from tune.fitting.result import FitResult
from tune.runs.folder import ComparisonRun
from tune.runs.record import ComparisonRecord
from tune.states import TrialState

EPOCHS = 4
SPLITS = [Split(("a",), ("b",), (name,)) for name in "cde"]


def planned(*heads: str) -> PlannedComparison:
    """A base with two stages frozen, and variants with others."""
    variants = [Variant(name, {"frozen_stages": int(name)}) for name in heads]
    return plan_comparison(Comparison("stages", variants=variants), Recipe(epochs=EPOCHS, frozen_stages=2), {})[0]


def write_times(run: ComparisonRun, arm: Arm, *seconds: float, state: TrialState = TrialState.COMPLETE) -> None:
    """Results of the arm's fits, repeat by repeat."""
    for number, (split, taken) in enumerate(zip(SPLITS, seconds, strict=True)):
        folder = run.fit(arm.fit_id(number, split.digest, "data"))
        folder.mkdir(exist_ok=True)
        FitResult(state, "", EPOCHS, 1, 0.5, taken, 1, 0.0, {"readings": []}, {}).write(folder)


def begun(folder: Path) -> ComparisonRun:
    return ComparisonRun.create(folder, "one", ComparisonRecord())


def test_an_arm_has_as_many_epochs_as_fit_into_the_time_of_the_slowest() -> None:
    seconds = {"base": 3.0, "0": 10.0, "5": 0.3}
    assert epochs_in_equal_time(planned("0", "5"), seconds) == {"base": 13, "0": 4, "5": 133}
    assert math.floor(EPOCHS * 10.0 / 3.0) == 13
    assert epochs_in_equal_time(planned("0", "5"), {"base": 0.7}) == {"base": 4}, "none has fewer than at equal epochs"


def test_what_is_measured_once_is_kept(tmp_path: Path) -> None:
    run, comparison = begun(tmp_path), planned("0", "5")
    write_times(run, comparison.base, 8.0, 8.0, 80.0)  # the median counts: one fit may have filled the stores
    write_times(run, comparison.variants[0], 16.0, 16.0, 16.0)
    write_times(run, comparison.variants[1], 9.0, 1.0, 1.0)
    (made,) = comparisons_at_equal_time(run, [comparison], SPLITS, "data")
    assert made.name == "stages, at equal time"
    assert [(arm.name, arm.recipe.epochs) for arm in made.arms] == [
        ("base, 8 epochs", 8),
        ("0, 4 epochs", 4),
        ("5, 64 epochs", 64),
    ]
    fits = {arm.fit_id(0, SPLITS[0].digest, "data") for arm in (*comparison.arms, *made.arms)}
    assert len(fits) == 5, "the slowest arm's fits are those at equal epochs"
    write_times(run, comparison.variants[1], 4.0, 4.0, 4.0)
    assert comparisons_at_equal_time(run, [comparison], SPLITS, "data") == [made]
    assert run.record().equal_time == {"stages": {"base": 8, "0": 4, "5": 64}}
    write_times(run, planned("0", "5", "1").variants[2], 32.0, 32.0, 32.0)
    (more,) = comparisons_at_equal_time(run, [planned("0", "5", "1")], SPLITS, "data")
    assert [arm.recipe.epochs for arm in more.arms] == [16, 8, 32, 4], "a slower variant was added"


def test_nothing_is_compared_where_no_arm_is_faster_or_none_is_complete(tmp_path: Path) -> None:
    run, comparison = begun(tmp_path), planned("0", "5")
    for arm in comparison.arms:
        write_times(run, arm, 2.0, 2.0, 2.0)
    write_times(run, comparison.variants[1], 0.1, 0.1, 0.1, state=TrialState.DIVERGED)
    assert comparisons_at_equal_time(run, [comparison], SPLITS, "data") == []
    write_times(run, comparison.base, 1.0, 1.0, 1.0, state=TrialState.DIVERGED)
    run.write_record(ComparisonRecord())
    assert comparisons_at_equal_time(run, [comparison], SPLITS, "data") == []
