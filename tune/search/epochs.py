"""How many epochs a fit has under a time budget: no more than leave time for trials and for their repeats.

The learning rate falls to zero over the epochs that are planned. A fit that the time cuts off at a high rate is worth
less than one that was planned shorter and came to its end, and a choice of which no repeat ends has no bag
(docs/anytime.md). So where nobody states the epochs, they follow the budget: one turn of trials and the repeats of one
finalist have room in it, or one turn of these repeats where only so a fit has two epochs. Of many photos, or in very
little time, an epoch is a part of them. What a photo takes is measured when the backbones are ranked, before the first
trial (`tune.search.ranking`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from maskcls.recipe import Recipe
from tune.runs.folder import SearchRun
from tune.runs.record import RankedRecord
from tune.runs.session import faces_of, say
from tune.runs.study import trials_of
from tune.search.plan import CLOSE, SearchPlan

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from tune.search.options import SearchOptions

WORTH_A_TURN = 2
"""Epochs that are worth more than a further turn of fits: of the preset's fits on real faces those with two scored .09
[.05, .12] more than those with one (n = 5; docs/anytime.md)."""
FEW = 2_000
"""Photos that a fit draws at least, if it can: fewer teach it too little for its repeats to be worth their time."""
GUESSED_MS = (40.0, 10.0)
"""What a photo takes in training and in validation where nothing was timed, because the time was too short or the
machine too busy: more than any of our small networks takes on one core."""
ALL_FITS = 0.8
"""What share of the budget all fits in turn may take: a worker starts before each, and the estimate is not exact."""


@dataclass(frozen=True)
class EpochCost:
    """What an epoch takes.

    Args:
        training_ms: of a photo in training, through all models.
        photo_ms: of its way forward through them, in validation.
        trained, validated: photos of an epoch, where it draws as many as there are.
        is_guess: nothing was timed.
    """

    training_ms: float
    photo_ms: float
    trained: int
    validated: int
    is_guess: bool = False

    def seconds(self, drawn: int | None = None) -> float:
        """The seconds of an epoch of so many draws; None: of a whole one."""
        draws = self.trained if drawn is None else drawn
        return (self.training_ms * draws + self.photo_ms * self.validated) / 1e3

    def drawn_in(self, seconds: float) -> int:
        """How many photos an epoch of so many seconds draws; it may be below zero."""
        return int((1e3 * seconds - self.photo_ms * self.validated) / self.training_ms)


def within_the_budget(plan: SearchPlan, run: SearchRun, options: SearchOptions) -> SearchPlan:
    """Return the plan with as many epochs as its time budget has room for, keep them in the run's record, and say so.

    The same plan where its epochs are stated or have room. Where nothing was timed, the time is guessed. A run that has
    trials keeps its epochs: a study compares trials of equal epochs. Where a repeat has no time after a trial, none is
    kept for fits after the search, so that trials that take longer come to their end.
    """
    budget_s = plan.time_budget_s
    if not plan.fits_epochs or budget_s is None:
        return plan
    cost = epoch_cost(plan.base, run.record().ranking or [], faces_of(run, options))
    if trials_of(run):
        is_alone = cost is not None and _is_alone(plan.base, cost, budget_s)
    else:
        cost = cost or _guessed(plan.base, faces_of(run, options))
        plan = _shortened(plan, budget_s, cost, run, options)
        is_alone = _is_alone(plan.base, cost, budget_s)
    return replace(plan, fits_after=0) if is_alone else plan


def _is_alone(base: Recipe, cost: EpochCost, budget_s: float) -> bool:
    """Whether a fit takes so long that no repeat of it has time in the budget."""
    return 2 * base.epochs * cost.seconds(base.drawn_of(cost.trained)) > budget_s


def _shortened(
    plan: SearchPlan, budget_s: float, cost: EpochCost, run: SearchRun, options: SearchOptions
) -> SearchPlan:
    repeats = options.repeats if options.finalists else 0
    turns = 1 + math.ceil(repeats / plan.parallel)
    epochs, drawn = fit_within(budget_s, cost, turns, plan.base.batch_size)
    if epochs >= plan.base.epochs and drawn == cost.trained:
        return plan
    if drawn < cost.trained:
        base = plan.base.override({"epochs": epochs, "epoch_photos": drawn})
        photos, has = f"all {cost.trained:,} photos", f"one of {drawn:,}"
    else:
        base = plan.base.override({"epochs": epochs})
        photos, has = "all photos", f"{epochs} instead of {plan.base.epochs}"
    why = "no time is kept for repeats" if _is_alone(base, cost, budget_s) else "repeats have time, too"
    takes = "was not timed, and may take" if cost.is_guess else "takes about"
    note = (
        f"An epoch of {photos} {takes} {cost.seconds():.0f} s here, so a fit has {has} for the time budget; {why}. "
        "--epochs, or --set epoch_photos=N, overrules it."
    )
    say(note)
    record = run.record()
    run.write_record(record.changed(base_recipe=base.model_dump(), notes=[*record.notes, note]))
    return replace(plan, base=base)


def fit_within(budget_s: float, cost: EpochCost, turns: int, least: int) -> tuple[int, int]:
    """The epochs of a fit, and the photos of each, for so many fits in turn to end within the budget, or about then.

    If these are fewer than WORTH_A_TURN, then up to so many as let a trial and one turn of its repeats end.
    Where not even a trial and one turn of its repeats have time for whole epochs, an epoch draws a part of the photos:
    as many as both have time for or, where those are fewer than FEW, as a trial alone has; never fewer than `least`.
    """
    whole_s, in_turn = cost.seconds(), min(turns, 2)
    epochs = round(budget_s / turns / whole_s)
    if in_turn == 1:  # a longer fit would not end
        epochs = int((1 + CLOSE) * budget_s / whole_s)
    else:
        epochs = min(max(epochs, WORTH_A_TURN), int(budget_s / in_turn / whole_s))
    if epochs and whole_s <= ALL_FITS * budget_s:
        return epochs, cost.trained
    drawn = cost.drawn_in(ALL_FITS * budget_s / in_turn)
    if drawn < min(FEW, cost.trained):
        drawn = cost.drawn_in(ALL_FITS * budget_s)
    drawn = drawn // 100 * 100 or drawn  # so that runs of about the same speed have the same
    return 1, min(cost.trained, max(drawn, least))


def epoch_cost(base: Recipe, ranking: Sequence[RankedRecord], faces: FaceDataset) -> EpochCost | None:
    """Estimate the cost of an epoch of this recipe, or of the backbone that was ranked first if that takes longer.

    None where one of its backbones was not timed.
    """
    times = {
        each.backbone: (each.training_ms, each.photo_ms)
        for each in ranking
        if each.training_ms is not None and each.photo_ms is not None
    }
    models = [base.of_model(tasks).backbone for tasks in base.split.models]
    if not times or not times.keys() >= set(models):
        return None
    first = [next(iter(times))] * len(models)
    slower = max((models, first), key=lambda names: sum(times[name][0] for name in names))
    training_ms, photo_ms = (sum(each) for each in zip(*(times[name] for name in slower), strict=True))
    return _cost(base, faces, training_ms, photo_ms)


def _guessed(base: Recipe, faces: FaceDataset) -> EpochCost:
    training_ms, photo_ms = (len(base.split.models) * each for each in GUESSED_MS)
    return replace(_cost(base, faces, training_ms, photo_ms), is_guess=True)


def _cost(base: Recipe, faces: FaceDataset, training_ms: float, photo_ms: float) -> EpochCost:
    person = faces.photos["person"]
    trained, validated = (int(person.isin(side).sum()) for side in (faces.split.train, faces.split.validation))
    return EpochCost(training_ms, photo_ms, base.drawn_of(trained), validated)
