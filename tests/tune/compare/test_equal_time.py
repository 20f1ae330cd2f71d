"""How many epochs an arm has in the time of the slowest one, from results that are made, and what a run keeps of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

from maskcls.data.splits import Split
from maskcls.recipe import Recipe
from tune.compare.arms import Arm, PlannedComparison, plan_comparison
from tune.compare.equal_time import ArmTime, comparisons_at_equal_time, epochs_in_equal_time
from tune.compare.studies import Comparison, Variant
from tune.fitting.curve import CURVE
from tune.fitting.request import Row
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


def row(seconds: float, filling_s: float = 0.0) -> Row:
    """An epoch of a curve that took so long, and of that filled the stores of frozen features for so long."""
    return {"epoch_seconds": seconds, "filling_s": filling_s}


def write_times(run: ComparisonRun, arm: Arm, *seconds: float, state: TrialState = TrialState.COMPLETE) -> None:
    """Results and curves of the arm's fits, repeat by repeat, of epochs that took the same time."""
    for number, (split, taken) in enumerate(zip(SPLITS, seconds, strict=True)):
        folder = run.fit(arm.fit_id(number, split.digest, "data"))
        folder.mkdir(exist_ok=True)
        FitResult(state, "", EPOCHS, 1, 0.5, taken, 1, 0.0, {"readings": []}, {}).write(folder)
        scored = {"validation_f1": 0.5, "best_f1": 0.5}
        rows = [{"epoch": epoch + 1, **scored, **row(taken / EPOCHS)} for epoch in range(EPOCHS)]
        (folder / CURVE).write_text("".join(json.dumps(one) + "\n" for one in rows))


def begun(folder: Path) -> ComparisonRun:
    return ComparisonRun.create(folder, "one", ComparisonRecord())


def time_of(epoch_s: float) -> ArmTime:
    found = ArmTime.of(Recipe(epochs=EPOCHS), [[row(epoch_s)] * EPOCHS])
    assert found is not None
    return found


def test_an_arm_has_as_many_epochs_as_fit_into_the_time_of_the_slowest() -> None:
    times = {"base": time_of(3.0), "0": time_of(10.0), "5": time_of(0.3)}
    assert epochs_in_equal_time(times) == {"base": 13, "0": 4, "5": 133}
    assert math.floor(EPOCHS * 10.0 / 3.0) == 13
    assert epochs_in_equal_time({"base": time_of(0.7)}) == {"base": 4}, "none has fewer than at equal epochs"


def test_computing_frozen_features_counts_once() -> None:
    first = [row(5.0, 4.0), row(4.0, 3.0), row(1.0), row(1.0)]  # two views, and the photos validated on
    others = [row(1.0)] * EPOCHS
    found = ArmTime.of(Recipe(epochs=EPOCHS, views=2), [first, others])
    assert found == ArmTime(EPOCHS, fit_s=4 * 1.0 + 7.0 / 2, epoch_s=1.0, views=2, view_s=0.0)
    # Two fits of 16 epochs are 32 s, and 7 s of computing: two fits of 19.5 s.
    assert epochs_in_equal_time({"frozen": found, "slow": time_of(19.6 / EPOCHS)}) == {"frozen": 16, "slow": 4}


def test_views_that_are_not_stored_yet_are_computed_in_the_epochs_that_draw_them() -> None:
    fits = [[row(6.0, 5.0), row(4.0, 3.0), row(4.0, 3.0)]]
    found = ArmTime.of(Recipe(epochs=3, views=5), fits)
    assert found is not None
    assert [found.seconds(epochs) for epochs in (3, 4, 5, 6, 7)] == [14.0, 18.0, 22.0, 23.0, 24.0]
    assert [found.epochs_in(seconds) for seconds in (14.0, 17.9, 18.0, 22.9, 30.0)] == [3, 3, 4, 5, 13]


RECORDED = {
    "nothing frozen": (
        ((13.309, 0.0), (10.657, 0.0), (10.491, 0.0)),
        ((15.714, 0.0), (10.328, 0.0), (16.275, 0.0)),
        ((15.381, 0.0), (16.921, 0.0), (19.7, 0.0)),
    ),
    "all frozen": (
        ((4.936, 4.535), (4.717, 4.337), (5.744, 5.266)),
        ((5.18, 4.384), (4.486, 3.94), (3.768, 3.281)),
        ((2.757, 2.243), (2.411, 1.513), (1.338, 0.861)),
    ),
}
"""Seconds of each epoch, and of these for filling stores: three fits of three epochs, four views, 1,561 photos of faces
at 48 px on a busy machine. Every epoch of the frozen ones computed features."""


def test_epochs_that_were_recorded_give_the_stored_epochs_time() -> None:
    fits = {name: [[row(*epoch) for epoch in fit] for fit in found] for name, found in RECORDED.items()}
    times = {name: ArmTime.of(Recipe(epochs=3, views=4), rows) for name, rows in fits.items()}
    frozen, whole = times["all frozen"], times["nothing frozen"]
    assert frozen is not None
    assert whole is not None
    assert epochs_in_equal_time({"whole": whole, "frozen": frozen}) == {"whole": 3, "frozen": 58}
    assert frozen.seconds(58) <= whole.fit_s < frozen.seconds(59)
    as_before = sorted(sum(seconds for seconds, _ in fit) / 3 for fit in RECORDED["all frozen"])[1]
    assert int(whole.fit_s / as_before) == 9, "by the mean epoch of fits that computed their features"


def test_rows_of_earlier_versions_say_no_filling_and_count_whole() -> None:
    fits = [[{"epoch_seconds": seconds} for seconds in (5.0, 2.0, 2.0, 2.0)]]
    assert ArmTime.of(Recipe(epochs=EPOCHS), fits) == ArmTime(EPOCHS, 11.0, 2.0, 0, 0.0)


def test_what_is_measured_once_is_kept(tmp_path: Path) -> None:
    run, comparison = begun(tmp_path), planned("0", "5")
    write_times(run, comparison.base, 8.0, 8.0, 80.0)  # the median counts: other work may have slowed one
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
