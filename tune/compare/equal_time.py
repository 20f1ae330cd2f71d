"""Comparisons at equal time: each arm gets as many epochs as fit into the time of its comparison's slowest arm.

At equal epochs, an arm whose epochs cost little is given little of the machine: with a frozen backbone whose features
are stored, an epoch may take a twentieth of the time. So after the fits at equal epochs each faster arm is trained
again, for more epochs, and its learning-rate schedule ends with the last of them. How many is computed once, from the
rows of the fits at equal epochs, and kept in comparison.json: another driver would measure other times.

An arm's time is what its fits at equal epochs took, and for each further epoch what an epoch takes whose frozen
features are stored. Computing these counts once: repeats that find the features of others are given no time for them,
so each has an equal share of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import mean, median
from typing import TYPE_CHECKING, Self

from maskcls.recipe import Recipe
from tune.compare.arms import Arm, PlannedComparison
from tune.fitting.curve import read_curve
from tune.fitting.request import Row
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
            epochs = epochs_in_equal_time(_times(run, comparison, splits, data_digest))
        found[comparison.name] = epochs
        again = _at_equal_time(comparison, epochs)
        made += [again] if again else []
    if found != kept:
        run.write_record(run.record().changed(equal_time=found))
    return made


@dataclass(frozen=True)
class ArmTime:
    """How long an arm's fits take, by those at equal epochs. Seconds of training and validation, without the start."""

    epochs: int
    fit_s: float
    """A fit of so many epochs, with its share of the computing of frozen features."""
    epoch_s: float
    """A further epoch, whose frozen features are stored."""
    views: int
    """How many views a photo has whose features are stored; 0 where none are, or each draw is a new one."""
    view_s: float
    """What an epoch takes besides if it draws photos in a view in which nobody has drawn them."""

    @classmethod
    def of(cls, recipe: Recipe, fits: Sequence[Sequence[Row]]) -> Self | None:
        """By the rows of the arm's complete fits; None where there are none, or they say no time.

        Medians, as a fit may share the machine with others; but of the seconds in which features were stored the mean,
        as the first fit stores most of what the others read. Rows of earlier versions do not have these seconds; then
        they count for every epoch.
        """
        filling = [[float(row.get("filling_s", 0.0)) for row in rows] for rows in fits]
        others = [
            [row["epoch_seconds"] - filled for row, filled in zip(rows, of_fit, strict=True)]
            for rows, of_fit in zip(fits, filling, strict=True)
        ]
        epoch_s = median([seconds for of_fit in others for seconds in of_fit] or [0.0])
        if epoch_s <= 0:
            return None
        fit_s = median(map(sum, others)) + mean(map(sum, filling))
        return cls(recipe.epochs, fit_s, epoch_s, recipe.views, mean(of_fit[-1] for of_fit in filling))

    def seconds(self, epochs: int) -> float:
        """Of a fit of so many epochs, no fewer than were measured."""
        new_views = max(0, min(epochs, self.views) - self.epochs)
        return self.fit_s + (epochs - self.epochs) * self.epoch_s + new_views * self.view_s

    def epochs_in(self, seconds: float) -> int:
        """How many epochs fit into so many seconds; no fewer than were measured."""
        return next(epochs for epochs in count(self.epochs) if self.seconds(epochs + 1) > seconds * (1 + 1e-9))


def epochs_in_equal_time(times: Mapping[str, ArmTime]) -> dict[str, int]:
    """How many epochs of each arm fit into the time of the slowest arm's fit at equal epochs, by the arms' names."""
    slowest = max((time.fit_s for time in times.values()), default=0.0)
    return {name: time.epochs_in(slowest) for name, time in times.items()}


def _times(
    run: ComparisonRun, comparison: PlannedComparison, splits: Sequence[Split], data_digest: str
) -> dict[str, ArmTime]:
    """What the fits at equal epochs took, of each arm that has a complete one, by the arms' names."""
    times = {}
    for arm in comparison.arms:
        folders = [run.fit(arm.fit_id(number, split.digest, data_digest)) for number, split in enumerate(splits)]
        results = [(folder, FitResult.read(folder)) for folder in folders]
        complete = [folder for folder, result in results if result and result.state == TrialState.COMPLETE]
        if time := ArmTime.of(arm.recipe, [rows for rows in map(read_curve, complete) if rows]):
            times[arm.name] = time
    return times


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
