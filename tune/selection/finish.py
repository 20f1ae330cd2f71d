"""Train a winner that the scheduler had stopped early to its end, as its repeats were: that model is handed over."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from maskcls.recipe import Recipe
from maskcls.stores.arrays import CacheOptions
from tune.fitting.pool import run_fits
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome
from tune.selection.finalists import Finalist, digest_of
from tune.states import TrialState


def finish_request(run: SearchRun, winner: Finalist, *, cpus: int, gpus: float) -> FitRequest:
    """Return the request. Its id names the trial and its recipe."""
    # The first word keeps it apart from the ids of the repeats, whose folders lie beside this one.
    fit_id = digest_of("finish", winner.trial_id, Recipe.model_validate(winner.recipe).digest)
    return FitRequest(
        trial_id=fit_id,
        recipe=winner.recipe,
        folder=run.finalists / fit_id,
        run=run.path,
        cpus=cpus,
        gpus=gpus,
        settings={"trial": winner.trial_id},
        label=f"trial {winner.trial_id}, to its end",
        trial=winner.trial_id,
        continues_trial=True,
    )


def is_finished(request: FitRequest, result: FitResult | None = None) -> bool:
    """Whether best/ is this fit's bundle."""
    result = result or FitResult.read(request.folder)
    if result is None or not result.is_final:
        return False
    # Another trial may have been exported to best/ since.
    return is_bundle_of(SearchRun(request.run).best, request)


def divergence(run: SearchRun, winner: Finalist) -> str:
    """Return why the trial diverged when it was trained to its end; "" if it did not."""
    # What a fit is given of the machine is no part of its id, so any share will do.
    result = FitResult.read(finish_request(run, winner, cpus=1, gpus=0.0).folder)
    return result.message or "diverged" if result is not None and result.state == TrialState.DIVERGED else ""


def _has_ended(request: FitRequest, result: FitResult) -> bool:
    """Whether best/ is this fit's bundle, or never will be, because the fit diverged and would do so again."""
    return result.state == TrialState.DIVERGED or is_finished(request, result)


def is_bundle_of(folder: Path, request: FitRequest) -> bool:
    """Whether the folder holds the bundle that the request's fit wrote."""
    try:
        manifest = json.loads((folder / "bundle.json").read_text())
    except (OSError, ValueError):
        return False
    scores = manifest.get("scores") if isinstance(manifest, dict) else None
    # `fit` stands only in bundles that fits wrote (`tune.selection.fits`), not in a trial that was exported.
    return isinstance(scores, dict) and bool(scores.get("fit") == request.trial_id)


def finish(
    run: SearchRun,
    winner: Finalist,
    *,
    cpus: int,
    gpus: float,
    cache: CacheOptions,
    budget_s: float | None = None,
    plain: bool | None = None,
) -> Outcome:
    """Train the trial to its end and write best/, if that is not done. Ray must be connected; the caller holds the run.

    A trial that diverges is done without a bundle (`divergence`).

    Raises RunError as `run_fits` does.
    """
    from tune.selection.fits import finish_fit

    request = finish_request(run, winner, cpus=cpus, gpus=gpus)
    work = functools.partial(finish_fit, cache=cache)
    return run_fits([request], work, parallel=1, budget_s=budget_s, plain=plain, is_done=_has_ended)
