"""How many epochs a fit has under a time budget: no more than leave time for trials and for their repeats.

The learning rate falls to zero over the epochs that are planned. A fit that the time cuts off at a high rate is worth
less than one that was planned shorter and came to its end, and a choice of which no repeat ends has no bag
(docs/anytime.md). So where nobody states the epochs, they follow the budget: one turn of trials and the repeats of one
finalist have room in it. What an epoch takes is estimated from the pass through the backbones that comes before the
first trial (`tune.search.ranking`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maskcls.recipe import Recipe
from tune.runs.folder import SearchRun
from tune.runs.record import RankedRecord
from tune.runs.session import faces_of, say
from tune.search.plan import SearchPlan

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from tune.search.options import SearchOptions

TRAINING = 3.3
"""How many times as long as a forward pass a photo takes in training, augmentation included (measured with resnet10t
and mobilenetv3_small_100 at 112 px on two cores, nothing frozen)."""


def within_the_budget(plan: SearchPlan, run: SearchRun, options: SearchOptions) -> SearchPlan:
    """Return the plan with as many epochs as its time budget has room for, keep them in the run's record, and say so.

    The same plan where its epochs are stated, where they have room, or where nothing was timed. To be called before the
    first trial: a study compares trials of equal epochs.
    """
    if not plan.fits_epochs or plan.time_budget_s is None:
        return plan
    epoch_s = epoch_seconds(plan.base, run.record().ranking or [], faces_of(run, options))
    if epoch_s is None:
        return plan
    repeats = options.repeats if options.finalists else 0
    epochs = epochs_in(plan.time_budget_s, epoch_s, turns=1 + math.ceil(repeats / plan.parallel))
    if epochs >= plan.base.epochs:
        return plan
    note = (
        f"An epoch takes about {epoch_s:.0f} s here, so a fit has {epochs} instead of {plan.base.epochs}: with more, "
        "the time budget would end before the repeats do. --epochs states them."
    )
    say(note)
    base = plan.base.override({"epochs": epochs})
    record = run.record()
    run.write_record(record.changed(base_recipe=base.model_dump(), notes=[*record.notes, note]))
    return replace(plan, base=base)


def epochs_in(budget_s: float, epoch_s: float, turns: int) -> int:
    """How many epochs, at least one, a fit may have for so many in turn to end within the budget, or about then."""
    return max(1, round(budget_s / turns / epoch_s))


def epoch_seconds(base: Recipe, ranking: Sequence[RankedRecord], faces: FaceDataset) -> float | None:
    """Estimate the seconds of an epoch of this recipe, or of the backbone that was ranked first if that takes longer.

    None where one of its backbones was not timed.
    """
    times = {each.backbone: each.photo_ms for each in ranking if each.photo_ms is not None}
    models = [base.of_model(tasks).backbone for tasks in base.split.models]
    if not times or not times.keys() >= set(models):
        return None
    person = faces.photos["person"]
    trained, validated = (int(person.isin(side).sum()) for side in (faces.split.train, faces.split.validation))
    photo_ms = max(sum(times[backbone] for backbone in models), len(models) * next(iter(times.values())))
    return photo_ms * (TRAINING * trained + validated) / 1e3
