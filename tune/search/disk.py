"""The most that a search's run takes on the disk, before it begins: from the networks that its space draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from maskcls.recipe import Recipe
from tune.search.options import SearchOptions
from tune.search.plan import NONE, SearchPlan, drawn_recipes

REPORT_BYTES = 3_000_000
"""More than the report, the journal, the tables and Ray's own notes take, whatever the number of trials."""
TRIAL_BYTES = 50_000
"""More than a trial's curve and its lines in those files take."""
ROW_BYTES = 150
"""More than a trial's or a repeat's predictions take for a photo."""


@dataclass(frozen=True)
class RunBytes:
    """The most that a run's folder takes, if no recipe is larger than those of many draws from the space."""

    at_work: int
    """At any moment."""
    left: int
    """When the search has ended, its finalists' fits included."""


def run_bytes(plan: SearchPlan, options: SearchOptions, photos: int) -> RunBytes:
    """Bound what the run takes.

    The weights of the best trials and of the preset stay (`tune.selection.keeping`); a finalist that a scheduler stops
    keeps its optimizer's state until it is trained to its end, whose weights stay beside those of the trial. The
    repeats keep weights until the choice is made, and those of the winner for good. What is at work is counted twice,
    for a checkpoint is written beside the one that it replaces; so is a bundle, which may be a bag of the winner,
    its repeats and other trials.
    """
    from maskcls.training.sizes import best_bytes, checkpoint_bytes, weights_bytes
    from tune.selection.averaging import MOST_OTHERS

    drawn = _largest(drawn_recipes(plan))
    begun, best, bundle = (max(map(size, drawn)) for size in (checkpoint_bytes, best_bytes, weights_bytes))
    stopped = 0 if plan.scheduler == NONE else options.finalists
    repeats = options.repeats if options.finalists else 0
    kept = min(plan.trials, max(options.keep, options.finalists) + 1)
    small = plan.trials * TRIAL_BYTES + plan.fits_after * TRIAL_BYTES + REPORT_BYTES
    small += (kept + plan.fits_after) * photos * ROW_BYTES
    averaged = repeats + min(MOST_OTHERS, kept - 1) if options.finalists and not options.single else 0
    handed_over = (1 + averaged) * bundle  # best/
    left = (kept + stopped + repeats) * best + handed_over + options.retrain_on_all * bundle + small
    chosen_from = (
        max(0, options.finalists - 1) * repeats * best
    )  # the other finalists' repeats, until the choice is made
    return RunBytes(left + chosen_from + (2 * plan.parallel + stopped) * begun + handed_over, left)


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
