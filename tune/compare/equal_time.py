"""Comparisons at equal time: each arm gets as many epochs as fit into the time of its comparison's slowest arm.

At equal epochs, an arm whose epochs cost little is given little of the machine: with a frozen backbone whose features
are stored, an epoch may take a hundredth of the time. So after the fits at equal epochs each faster arm is trained
again, for more epochs, and its learning-rate schedule ends with the last of them. How many is computed once, from the
time of the fits at equal epochs, and kept in comparison.json: another driver would measure other times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from tune.compare.arms import Arm, PlannedComparison
from tune.fitting.result import FitResult
from tune.runs.folder import ComparisonRun
from tune.states import TrialState

if TYPE_CHECKING:
    from maskcls.data.splits import Split

CLAIM = "Every arm has as many epochs as fit into the time of the slowest one."


def comparisons_at_equal_time(
    run: ComparisonRun, comparisons: Sequence[PlannedComparison], splits: Sequence[Split], data_digest: str
) -> list[PlannedComparison]:
    """The comparisons again, at equal time; those in which nothing can be compared so are left out.

    The fits at equal epochs must be done. Writes the arms' epochs into comparison.json where they are not there.
    """
    kept = run.record().equal_time
    found, made = dict(kept), []
    for comparison in comparisons:
        epochs = kept.get(comparison.name, {})
        if {arm.name for arm in comparison.arms} - set(epochs):  # not computed yet, or variants were added
            epochs = epochs_in_equal_time(comparison, _seconds(run, comparison, splits, data_digest))
        found[comparison.name] = epochs
        again = _at_equal_time(comparison, epochs)
        made += [again] if again else []
    if found != kept:
        run.write_record(run.record().changed(equal_time=found))
    return made


def epochs_in_equal_time(comparison: PlannedComparison, seconds: Mapping[str, float]) -> dict[str, int]:
    """How many epochs of each arm fit into the time of the slowest arm's fit, by the arms' names.

    Args:
        seconds: of an epoch of each arm that has one.
    """
    arms = [arm for arm in comparison.arms if arm.name in seconds]
    slowest = max((arm.recipe.epochs * seconds[arm.name] for arm in arms), default=0.0)
    return {arm.name: max(arm.recipe.epochs, int(slowest / seconds[arm.name] + 1e-6)) for arm in arms}


def _seconds(
    run: ComparisonRun, comparison: PlannedComparison, splits: Sequence[Split], data_digest: str
) -> dict[str, float]:
    """Seconds of an epoch of each arm that has a complete fit.

    The median over the repeats: the first fit that draws a view of a photo also computes its frozen features.
    """
    seconds = {}
    for arm in comparison.arms:
        ids = [arm.fit_id(number, split.digest, data_digest) for number, split in enumerate(splits)]
        results = [result for fit_id in ids if (result := FitResult.read(run.fit(fit_id))) is not None]
        taken = [one.seconds / one.epochs for one in results if one.state == TrialState.COMPLETE and one.seconds > 0]
        if taken:
            seconds[arm.name] = median(taken)
    return seconds


def _at_equal_time(comparison: PlannedComparison, epochs: Mapping[str, int]) -> PlannedComparison | None:
    """The comparison with these epochs; None where its base has none, or no arm gets more than it had."""
    arms = [arm for arm in comparison.arms if arm.name in epochs]
    more = [arm for arm in arms if epochs[arm.name] > arm.recipe.epochs]
    if comparison.base not in arms or len(arms) < 2 or not more:
        return None
    base, *variants = (_with_epochs(arm, epochs[arm.name]) for arm in arms)
    name = f"{comparison.name}, at equal time"
    return replace(comparison, name=name, claim=CLAIM, source="", base=base, variants=tuple(variants))


def _with_epochs(arm: Arm, epochs: int) -> Arm:
    return replace(arm, name=f"{arm.name}, {epochs} epochs", recipe=arm.recipe.override({"epochs": epochs}))
