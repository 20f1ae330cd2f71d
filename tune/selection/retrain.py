"""`--retrain-on-all`: fit the winner's recipe on train and validation people together, as runs/<name>/best-on-all/.

More people make a better model, as a rule, but nobody is left to say by how much: it has no score, nor the winner's.
Its schedule is the recipe's own. It stops after as many epochs as the winner's repeats were best after (their median):
without validation people nothing else says when. The holdout people take no part.
"""

from __future__ import annotations

import functools
import shutil
import statistics
from typing import TYPE_CHECKING

from maskcls.errors import DataError
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from tune.fitting.pool import run_fits
from tune.fitting.request import EVERYBODY, FitRequest
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome
from tune.runs.stored.keeping import sender_of
from tune.selection.finalists import Finalist, digest_of
from tune.selection.finish import is_bundle_of
from tune.states import TrialState

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

NOTE = (
    "Trained on the train and validation people together: nobody was left to score it on, so no score belongs to this "
    "model."
)
MADE = "bundle"
"""The folder, in the fit's own, of the bundle that the driver puts in the place of best-on-all/."""


def retrain_request(run: SearchRun, winner: Finalist, faces: FaceDataset, *, cpus: int, gpus: float) -> FitRequest:
    """Return the request. Its id names recipe, epochs, people and photos.

    Raises DataError if the run has no validation people.
    """
    recipe = Recipe.checked(winner.recipe)
    if not faces.split.validation:
        raise DataError(
            f"--retrain-on-all adds the validation people of {run.name} to its training people, but there are none."
        )
    # In the id as well: other repeats, as of another design, may give another number.
    epochs = last_epoch(winner)
    fit_id = digest_of("on all", recipe.digest, epochs, faces.split.digest, faces.digest)
    people = len(faces.split.train) + len(faces.split.validation)
    return FitRequest(
        trial_id=fit_id,
        recipe={**recipe.model_dump(), "epochs": epochs},  # where it stops; the schedule ends at `schedule_epochs`
        folder=run.finalists / fit_id,
        run=run.path,
        cpus=cpus,
        gpus=gpus,
        settings={"trial": winner.trial_id, "schedule_epochs": recipe.epochs, "people": people, "note": NOTE},
        label=f"trial {winner.trial_id} on all {people:,} people",
        split=EVERYBODY,
        schedule_epochs=recipe.epochs,
        trial=winner.trial_id,
    )


def last_epoch(winner: Finalist) -> int:
    """Return the (lower) median of the best epochs of its repeats; the trial's best epoch if there are none."""
    best = [repeat.best_epoch for repeat in winner.repeats] or [winner.best_epoch]
    # Of an even number the lower one: a whole epoch, after which some repeat was best.
    return int(statistics.median_low(best))


def is_retrained(request: FitRequest, result: FitResult | None = None) -> bool:
    """Whether best-on-all/ is this fit's bundle, or has only to be put there, or never will be, because it diverged."""
    result = result or FitResult.read(request.folder)
    if result is None or not result.is_final:
        return False
    if result.state != TrialState.COMPLETE:  # it diverged, and would do so again
        return True
    places = request.folder / MADE, SearchRun(request.run).best_on_all
    return any(is_bundle_of(place, request) for place in places)


def retrain_on_all(
    run: SearchRun,
    winner: Finalist,
    faces: FaceDataset,
    *,
    cpus: int,
    gpus: float,
    cache: CacheOptions,
    budget_s: float | None = None,
    plain: bool | None = None,
) -> Outcome:
    """Run the fit, if it is not done. Ray must be connected unless `is_retrained`; the caller holds the run.

    Raises DataError, RunError as `run_fits` does, and CallError if best-on-all/ exists and is no bundle.
    """
    from maskcls.serving.export import check_writable, note_fitted
    from tune.selection.fits import fit_on_all
    from tune.selection.fitted import Fitted, from_repeats

    request = retrain_request(run, winner, faces, cpus=cpus, gpus=gpus)
    check_writable(run.best_on_all, overwrite=True)  # before the training, not after it
    work = functools.partial(fit_on_all, cache=cache)
    outcome = run_fits([request], work, parallel=1, budget_s=budget_s, plain=plain, is_done=is_retrained)
    _put_in_place(run, request)
    if is_bundle_of(run.best_on_all, request):
        note_fitted(run.best_on_all, *(from_repeats([(winner, 1.0)], faces) or Fitted()))
    return outcome


def _put_in_place(run: SearchRun, request: FitRequest) -> None:
    """Let the bundle that the worker left be best-on-all/. After a kill in between, the next call does it."""
    made = request.folder / MADE
    if not is_bundle_of(made, request):
        return
    files = [file for file in made.rglob("*") if file.is_file()]
    former = run.best_on_all.with_name(f".{run.best_on_all.name}.tmp")  # a kill leaves no bundle in parts
    shutil.rmtree(former, ignore_errors=True)
    if run.best_on_all.exists():
        run.best_on_all.rename(former)
    made.rename(run.best_on_all)
    shutil.rmtree(former, ignore_errors=True)
    if sender := sender_of(run.path):
        sender.later(functools.partial(sender.forget, files))


def summary(run: SearchRun, request: FitRequest) -> list[str]:
    """Say what became of it, in lines for a terminal."""
    result = FitResult.read(request.folder)
    if result is None or result.state != TrialState.COMPLETE or not is_retrained(request):
        reason = f"{result.state}. {result.message}" if result and result.state != TrialState.COMPLETE else "not done"
        return [f"Trial {request.trial} on all people: {reason}"]
    people = request.settings["people"]
    return [
        f"Trial {request.trial} on all {people:,} people, {request.recipe['epochs']} of {request.schedule_epochs} "
        f"epochs: {run.best_on_all}",
        "No score belongs to that model: nobody was left to score it on.",
    ]
