"""`--plan`: what a search would do, about how long it would take, and how much disk it would fill. Trains nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from maskcls.text import counted
from tune.durations import duration
from tune.runs import live
from tune.runs.estimates import PHOTOS_PER_SECOND, count_photos, decoded_bytes, gigabytes, pixel_room
from tune.runs.study import POINT, PRESET, SAMPLED
from tune.search import points
from tune.search.disk import run_bytes
from tune.search.first_trials import initial_left
from tune.search.options import Resolved, SearchOptions
from tune.search.plan import GRID, MODEL_AFTER, NONE, SearchPlan, drawn_recipes, geometries, modelled, parameters
from tune.search.ranking import PHOTOS, to_rank
from tune.search.warm_start import preset_params

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Of all epochs, about so many are run where the worse half of the trials is stopped at their half.
SHARE_OF_EPOCHS = 0.75
TRAIN_SHARE = 0.7


def print_plan(
    options: SearchOptions, resolved: Resolved, there: Sequence[FrozenTrial] = (), ended: int = 0, known: int = 0
) -> None:
    """Print what the search would do.

    Args:
        there: all trials of a run to be resumed.
        ended: how many of its own have ended.
        known: trials whose scores the sampler knows before the first one begins.

    Raises CallError where decoded photos have no room.
    """
    plan, console = resolved.plan, live.console()
    photos = count_photos(options)
    kinds = geometries(plan)
    room = pixel_room(kinds, photos, options.pixel_store_gb, at_a_time=plan.parallel, unit="trial")
    console.print(f"Space {resolved.space.name}: {resolved.space.question}", highlight=False)
    table = live.empty_table()
    table.add_column("parameter", no_wrap=True)
    table.add_column("from")
    for parameter in parameters(plan.space, plan.setting):
        table.add_row(parameter.name, parameter.domain + ("" if parameter.always else " (in some trials)"))
    console.print(table)
    gpus = f", {plan.gpus:g} GPUs" if plan.gpus else ""
    trials = None if options.trials is None else max(0, options.trials - ended)
    ahead = initial_left(there, plan)
    console.print(
        f"Trials: {'as many as the time allows' if trials is None else trials}"
        f"{f' more than the {ended} there are' if ended else ''}, "
        f"{plan.parallel} at a time, {counted(plan.cpus, 'core')}{gpus} each{_first(ahead, options.preset)}.",
        highlight=False,
    )
    for line in (*_ranked_before(plan, there), sampler_line(plan, trials, ahead, ended, known), size_line(plan)):
        console.print(line, highlight=False)
    console.print(_epochs_line(plan, photos, _sizes(kinds), is_new=not there), highlight=False)
    for note in room:
        console.print(note, highlight=False)
    if options.finalists:
        console.print(
            f"Then: the best {options.finalists} and the preset are repeated, {options.repeats} {options.repeat_by} "
            "each; the winner is scored on the holdout.",
            highlight=False,
        )
    if trials is None or options.trials is None:
        return
    console.print(
        f"Time: very roughly {duration(seconds(plan, photos, trials))}; backbones and machines vary.", highlight=False
    )
    taken = run_bytes(plan, options, photos)
    decoded = sum(decoded_bytes(photos, size) for size, _ in kinds)
    console.print(
        f"Disk: up to {gigabytes(taken.at_work)} in the run, of which {gigabytes(taken.left)} stay, "
        f"{gigabytes(min(decoded, options.pixel_store_gb * 1e9))} of decoded photos in the cache, "
        f"and {_features(plan, options)}.",
        highlight=False,
    )


def _ranked_before(plan: SearchPlan, there: Sequence[FrozenTrial]) -> list[str]:
    """How many backbones are ranked before the first trial, in a line; none after it, or without a choice of them."""
    names = [] if there else to_rank(plan)
    line = f"Before: {len(names)} backbones are ranked by their features of at most {PHOTOS} photos, untrained."
    return [line] if len(names) > 1 else []


def _epochs_line(plan: SearchPlan, photos: int, sizes: str, *, is_new: bool) -> str:
    fewer = ", or as many as the time budget has room for" if plan.fits_epochs and is_new else ""
    stopped = "" if plan.scheduler == NONE else f"; worse trials are stopped early, by {plan.scheduler}"
    return f"Epochs: up to {plan.base.epochs} each{fewer}, {photos:,} photos at {sizes}{stopped}."


def _sizes(kinds: Collection[tuple[int, str]]) -> str:
    """The sizes of photos among the kinds, as in `48 px` or `32 to 112 px`."""
    sizes = [size for size, _ in kinds]
    least, most = min(sizes), max(sizes)
    return f"{most} px" if least == most else f"{least} to {most} px"


def _features(plan: SearchPlan, options: SearchOptions) -> str:
    drawn = drawn_recipes(plan)
    freezes = any(one.of_model(tasks).frozen_stages for one in drawn for tasks in one.split.models)
    return f"at most {options.feature_store_gb:g} GB of frozen features" if freezes else "no frozen features"


def seconds(plan: SearchPlan, photos: int, trials: int) -> float:
    """A rough guess, from a rate that was measured once and the number of pixels."""
    rate, edge_px = PHOTOS_PER_SECOND[plan.setting.scale]
    drawn = plan.base.drawn_of(round(photos * TRAIN_SHARE))
    per_epoch = drawn / (rate * (edge_px / plan.base.image_size) ** 2)
    share = 1.0 if plan.scheduler == NONE else SHARE_OF_EPOCHS
    return (trials * share + plan.fits_after) * plan.base.epochs * per_epoch / plan.parallel


def _first(ahead: Sequence[str], preset: str) -> str:
    """Which trials are begun before the sampler is asked, as the rest of a sentence."""
    n = sum(origin.startswith(POINT) for origin in ahead)
    points = counted(n, "known point")
    if PRESET in ahead:
        return f"; first the preset {preset}, then {points}"
    return f"; first {points}" if n else ""


def _or_begun(ahead: Sequence[str]) -> str:
    return ", or were begun before" if SAMPLED in ahead else ""


def sampler_line(plan: SearchPlan, trials: int | None, ahead: Sequence[str], ended: int, known: int) -> str:
    """Who suggests the trials, and how many of them by a model of what the earlier ones scored.

    Args:
        trials: that are still to begin; None: as many as the time allows.
        ahead: as `initial_left` gives it.
    """
    by = f"Suggested by {plan.sampler}"
    if plan.sampler not in MODEL_AFTER:
        return f"{by}."
    needs = f"its model needs {counted(plan.model_after, 'trial')} with a score, and has {known}"
    if trials is None:
        return f"{by}: {needs}."
    unknown = int(PRESET in ahead and not preset_params(plan))
    by_model = modelled(plan, len(ahead), known, ended, unknown)
    first = min(len(ahead), trials)
    rest = trials - first - by_model
    return (
        f"{by}: {needs}. So {by_model} of {counted(trials, 'trial')} are suggested by the model, {rest} at random; "
        f"{first} are the preset and known points{_or_begun(ahead)}."
    )


def size_line(plan: SearchPlan) -> str:
    """How many recipes there are to try, where the space is finite or taken as a grid."""
    if plan.sampler == GRID:
        return f"Grid: {len(points.grid(plan.space, plan.setting)):,} points, ranges at {points.GRID_PLACES} places."
    found = points.all_points(plan.space, plan.setting)
    return (
        "Points: more than a search can try."
        if found is None
        else f"Points: {len(found):,} in all; none is tried twice."
    )
