"""The most that a search's run takes on the disk, before it begins: from the networks that its space draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from maskcls.recipe import Recipe
from tune.search.options import SearchOptions
from tune.search.plan import NONE, SearchPlan, drawn_recipes

REPORT_BYTES = 3_000_000
"""More than the report, the journal, the tables and Ray's own notes take, whatever the number of trials."""
TRIAL_BYTES = 50_000
"""More than a trial's curve and its lines in those files take."""
ROW_BYTES = 150
"""More than a repeat's predictions take for a photo."""


def run_bytes(plan: SearchPlan, options: SearchOptions, photos: int) -> int:
    """The most that the run's folder takes, if no recipe is larger than those of many draws from the space.

    A trial that a scheduler stops keeps its optimizer's state, so that it can be trained to its end. What is at work is
    counted once more, for a checkpoint is written beside the one that it replaces.
    """
    from maskcls.training.sizes import checkpoint_bytes, weights_bytes

    drawn = _largest(drawn_recipes(plan))
    begun = max(checkpoint_bytes(recipe, is_over=False) for recipe in drawn)
    ended = max(checkpoint_bytes(recipe, is_over=True) for recipe in drawn)
    trials = plan.trials * (TRIAL_BYTES + (ended if plan.scheduler == NONE else begun))
    at_work = 2 * plan.parallel * begun
    finalists = options.finalists * ended + plan.fits_after * (TRIAL_BYTES + photos * ROW_BYTES)
    bundles = (1 + options.retrain_on_all) * max(map(weights_bytes, drawn))
    return trials + at_work + finalists + bundles + REPORT_BYTES


def _largest(recipes: Iterable[Recipe]) -> list[Recipe]:
    """The recipes, each with the fewest frozen stages and the largest photos that any of its backbones has."""
    by_backbones: defaultdict[tuple[str, ...], list[Recipe]] = defaultdict(list)
    for recipe in recipes:
        by_backbones[recipe.backbones].append(recipe)
    return [
        recipe.model_copy(
            update={
                "frozen_stages": min(one.frozen_stages for one in same),
                "image_size": max(one.image_size for one in same),
            }
        )
        for same in by_backbones.values()
        for recipe in same
    ]
