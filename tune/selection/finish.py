"""Train finalists that the scheduler had stopped early to their end, as their repeats are.

Only such a model is handed over as the winner's, or goes into an ensemble. Its weights stay in the fit's folder. A
finalist that is complete, but whose weights were not kept, is trained again in the same way.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.errors import DataError
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_manifest
from maskcls.training.checkpoint_files import has_weights
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.selection.finalists import NOT_DONE, NOT_KEPT, Finalist, TrainedToEnd, digest_of, why_missing
from tune.states import TrialState

if TYPE_CHECKING:
    from tune.runs.study import Record


def finish_request(run: SearchRun, trial: Record | Finalist, *, cpus: int, gpus: float) -> FitRequest:
    """Return the request. Its id names the trial and its recipe."""
    # The first word keeps it apart from the ids of the repeats, whose folders lie beside this one.
    fit_id = digest_of("finish", trial.trial_id, Recipe.checked(trial.recipe).digest)
    return FitRequest(
        trial_id=fit_id,
        recipe=trial.recipe,
        folder=run.finalists / fit_id,
        run=run.path,
        cpus=cpus,
        gpus=gpus,
        settings={"trial": trial.trial_id},
        label=f"trial {trial.trial_id}, to its end",
        trial=trial.trial_id,
        continues_trial=True,
        keeps_checkpoint=True,
    )


def with_end(run: SearchRun, finalist: Finalist) -> Finalist:
    """The finalist with what it came to when it was trained to its end, if that was needed and is done."""
    if not finalist.unfinished:
        return finalist
    # What a fit is given of the machine is no part of its id, so any share will do.
    request = finish_request(run, finalist, cpus=1, gpus=0.0)
    result = FitResult.read(request.folder)
    if result is None or not has_model(request, result):
        diverged = result is not None and result.state == TrialState.DIVERGED
        missing = why_missing(request.folder)
        reason = finalist.unfinished if missing in ("", NOT_DONE) else missing
        return replace(finalist, unfinished=reason, diverged=diverged)
    if finalist.unfinished == NOT_KEPT:
        return replace(finalist, unfinished="")  # its own weights again
    best = TrainedToEnd(float(result.best_validation_f1 or 0.0), result.best_epoch)
    return replace(finalist, unfinished="", to_end=best)


def is_left(run: SearchRun, trial: Record) -> bool:
    """Whether a trial is left to train to its end, which was stopped early or whose weights were not kept."""
    request = finish_request(run, trial, cpus=1, gpus=0.0)
    result = FitResult.read(request.folder)
    return result is None or not has_ended(request, result)


def has_model(request: FitRequest, result: FitResult) -> bool:
    """Whether the fit is complete and its model can be exported."""
    if result.state != TrialState.COMPLETE:
        return False
    # Earlier versions kept no checkpoint, and wrote the winner's model into best/ at once.
    return has_weights(request.checkpoint_folder) or is_bundle_of(SearchRun(request.run).best, request)


def has_ended(request: FitRequest, result: FitResult) -> bool:
    """Whether there is a model, or never will be, because the fit diverged and would do so again."""
    return result.state == TrialState.DIVERGED or has_model(request, result)


def is_bundle_of(folder: Path, request: FitRequest) -> bool:
    """Whether the folder holds the bundle of the request's fit."""
    try:
        scores = read_manifest(folder).get("scores")
    except DataError:
        return False
    # `fit` stands only in bundles of fits after the search, not in a trial that was exported.
    return isinstance(scores, dict) and bool(scores.get("fit") == request.trial_id)
