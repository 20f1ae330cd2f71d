"""Which backbone to begin with: the space's backbones are ranked by their features before any of them is trained.

    backbones/<name>/    of each, as of any fit: recipe.json, epochs.jsonl, result.json

One pass over a sample of the training photos through each backbone, as its weights are, and a linear probe on the
features (`maskcls.training.ranking.probe`), which also says how long a photo takes. The order is kept in search.json,
so that a resume begins with the same points; the space's points follow it (`search_spaces.Setting.ranking`). Nothing is
left out because of it: the sampler may still suggest any backbone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from maskcls.errors import MaskclsError
from maskcls.machine import set_threads, use_deterministic_kernels
from maskcls.recipe import Recipe
from tune.fitting.pool import run_fits
from tune.fitting.request import FitRequest, Rows
from tune.fitting.result import FitResult
from tune.runs import live
from tune.runs.folder import SearchRun
from tune.runs.record import RankedRecord
from tune.runs.session import say
from tune.runs.stopping import Outcome, Reason
from tune.search.plan import SearchPlan, size_of

if TYPE_CHECKING:
    from maskcls.stores.cache_options import CacheOptions
    from tune.search.options import SearchOptions

PHOTOS = 600
"""In the sample, at most: each backbone sees the same ones."""
TIME_SHARE = 0.1
"""At most so much of a time budget is spent on the ranking; backbones that are not ranked by then come last."""
LEAST_S = 30.0
"""Of a short budget the ranking gets so much, but at most half: workers take seconds to start, and where nothing was
timed, the epochs follow a guess."""


def to_rank(plan: SearchPlan) -> list[str]:
    """Return the backbones that the space may choose and that have trained weights, the preset's first.

    Where it has no choice, none; or the preset's, to be timed, if the epochs are to follow the time budget.
    """
    there = plan.space.backbones(plan.setting) if plan.setting.pretrained else ()
    names = [name for name in there if plan.setting.has_weights(name)]
    if len(names) > 1:
        return sorted(names, key=lambda name: name not in plan.base.backbones)
    return list(plan.base.backbones) if plan.fits_epochs else []


def rank_first(plan: SearchPlan, run: SearchRun, options: SearchOptions) -> tuple[Outcome, SearchPlan]:
    """Rank the space's backbones, if that was not done before the first trial; the plan knows the order from then on.

    Of a time budget the plan has what the ranking has left.
    """
    from tune.runs.study import trials_of

    if run.record().ranking is not None or trials_of(run) or not to_rank(plan):
        return Outcome(Reason.FINISHED, 0), plan
    began = time.monotonic()
    outcome, order = rank(plan, run, options.cache_options)
    return outcome, replace(plan, setting=replace(plan.setting, ranking=order), time_budget_s=plan.left_s(began))


def rank(plan: SearchPlan, run: SearchRun, cache: CacheOptions) -> tuple[Outcome, tuple[str, ...]]:
    """Rank the backbones, keep the order in the run's record, and show it. Ray must be connected.

    Returns how that ended, and the backbones in their order, those without a score last; none if it was interrupted.
    Where none could be ranked, it is said, and the search begins as it would without.
    """
    names = to_rank(plan)
    requests = [_request(plan, run, name) for name in names]
    try:
        outcome = run_fits(
            requests,
            functools.partial(probe_fit, cache=cache),
            parallel=plan.parallel,
            budget_s=share_of(plan.time_budget_s),
        )
    except MaskclsError as error:
        say(f"The backbones could not be ranked, and are tried in the space's order: {error}")
        return Outcome(Reason.FINISHED, 0), ()
    if outcome.reason == Reason.INTERRUPTED:
        return outcome, ()
    found = [_ranked(name, request) for name, request in zip(names, requests, strict=True)]
    if all(each.f1 is None for each in found):
        say("No backbone was ranked in its share of the time; they are tried in the space's order.")
        found = []  # kept as well, so that no resume begins with other points
    found.sort(key=lambda each: -1.0 if each.f1 is None else each.f1, reverse=True)
    run.write_record(run.record().changed(ranking=found))
    if len(found) > 1:
        show(found)
    return outcome, tuple(each.backbone for each in found)


def share_of(budget_s: float | None) -> float | None:
    """The seconds that the ranking may take of a time budget, if there is one."""
    return None if budget_s is None else max(TIME_SHARE * budget_s, min(LEAST_S, budget_s / 2))


def probe_fit(request: FitRequest, *, cache: CacheOptions) -> Rows:
    """Score a request's backbone without training it. Its only row has the probe's macro F1."""
    from maskcls.training.ranking.probe import probe  # imports scikit-learn's models

    set_threads(max(1, request.cpus))
    use_deterministic_kernels()
    cache.limits.apply()
    recipe, device = Recipe.model_validate(request.recipe), "cuda" if request.gpus > 0 else "cpu"
    found = probe(request.dataset(replace(cache, waits=True)), recipe, device, photos=PHOTOS)
    yield {"epoch": 1, "validation_f1": found.f1}
    return found.to_dict()


def show(ranked: Sequence[RankedRecord]) -> None:
    """Print the ranking as a table, the most promising backbone first."""
    table = live.empty_table()
    for name in ("backbone", "probe F1", "LogME", "ms per photo"):
        table.add_column(name, justify="left" if name == "backbone" else "right", no_wrap=True)
    for each in ranked:
        numbers = (each.f1, each.logme, each.photo_ms)
        table.add_row(each.backbone, *("–" if number is None else f"{number:.3f}" for number in numbers))
    live.console().print(table, highlight=False)


def _request(plan: SearchPlan, run: SearchRun, backbone: str) -> FitRequest:
    """What is asked of a worker: one pass over photos, as an epoch of a fit in a folder of its own."""
    values = {"backbone": backbone, "image_size": size_of(plan, backbone), "epochs": 1}
    recipe = plan.base.override({**values, "members": {}, "task_split": "single"})
    folder = run.path / "backbones" / backbone
    return FitRequest(
        backbone, recipe.model_dump(), folder, run.path, plan.cpus, plan.gpus, label=f"{backbone}, as it is"
    )


def _ranked(backbone: str, request: FitRequest) -> RankedRecord:
    """What is known of a backbone; without numbers where its probe did not end well."""
    result = FitResult.read(request.folder)
    values = {} if result is None else result.values
    names = ("f1", "logme", "photo_ms", "training_ms", "photos")
    return RankedRecord(backbone=backbone, **{name: values.get(name) for name in names})
