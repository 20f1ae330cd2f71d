"""The works of choosing: a finalist's repeat, the end of a winner that was stopped early, its last fit on everybody but the holdout."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcls import machine
from maskcls.stores.arrays import CacheOptions
from maskcls.training.conditions import told_of
from tune.fitting.pool import FitRequest
from tune.runs.folder import SearchRun
from tune.selection.finalists import read_split
from tune.selection.predictions import write_predictions

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split
    from maskcls.recipe import Recipe
    from maskcls.training.fit import Fit
    from maskcls.training.result import EpochResult


def repeat_fit(request: FitRequest, *, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The work of one repeat. `settings` hold `split`, a file in the run. Leaves answers.npz for its validation people.

    Args:
        cache: where decoded photos and frozen features are kept.
    """
    with _memory_given_back():
        return (yield from _repeat(request, cache))


def fit_on_all(request: FitRequest, *, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The work of the winner's last fit, on train and validation people, whom nobody validates; it ends by writing best-on-all/.

    `recipe` has as its epochs those that are run; `settings` hold `schedule_epochs`, the recipe's own, `trial`, and `note`.
    """
    with _memory_given_back():
        return (yield from _on_all(request, cache))


def finish_fit(request: FitRequest, *, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The work of a winner that was stopped early: its trial's fit, from where that stood to the recipe's last epoch; it writes best/.

    `settings` hold `trial`, whose folder stays as the search left it.
    """
    with _memory_given_back():
        return (yield from _finish(request, cache))


_NO_SCORE = 0.0
"""`tune.search.trainable.curve` wants a number; result.json has None in its place, and no bundle or page shows it."""


def _repeat(request: FitRequest, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    from maskcls.recipe import Recipe

    split = read_split(request.run / request.settings["split"])
    fit, faces = _begun(request, Recipe.model_validate(request.recipe), split, cache)
    for result in _epochs(fit, request.state_folder):
        yield told_of(result)
    rows = faces.rows("validation")
    keys = faces.photos["key"].to_numpy(object)[rows].tolist()
    write_predictions(request.folder, keys, faces.photos["label"].to_numpy(np.int64)[rows], fit.answers(rows))
    return {"split_digest": split.digest}


def _finish(request: FitRequest, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    from maskcls.recipe import Recipe
    from maskcls.serving.bundle import export
    from maskcls.training.checkpoint import STATE_FILE

    run, trial = SearchRun(request.run), request.settings["trial"]
    if not (request.state_folder / STATE_FILE).exists():
        shutil.copytree(run.trial(trial), request.state_folder, dirs_exist_ok=True)
    recipe = Recipe.model_validate(request.recipe)
    fit, faces = _begun(request, recipe, read_split(run.data / "split.json"), cache)
    for result in _epochs(fit, request.state_folder):
        yield told_of(result)
    scores = {
        "validation": fit.best.scores.to_dict(),
        "epoch": fit.best_epoch,
        "run": run.name,
        "trial": trial,
        "fit": request.trial_id,
    }
    export(run.best, recipe, fit.best_states(), scores=scores, faces=faces, overwrite=True)
    return {}


def _on_all(request: FitRequest, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    from maskcls.data.splits import Split
    from maskcls.recipe import Recipe
    from maskcls.serving.bundle import export

    run, told, last = SearchRun(request.run), request.settings, int(request.recipe["epochs"])
    own = read_split(run.data / "split.json")
    everybody = Split(tuple(sorted((*own.train, *own.validation))), (), own.holdout)
    recipe = Recipe.model_validate({**request.recipe, "epochs": told["schedule_epochs"]})
    fit, faces = _begun(request, recipe, everybody, cache)
    for result in _epochs(fit, request.state_folder):
        yield {**told_of(result), "validation_f1": _NO_SCORE, "scores": None}
        if result.epoch == last:
            break
    origin = {"note": told["note"], "run": run.name, "trial": told["trial"], "fit": request.trial_id, "epoch": last}
    export(run.best_on_all, recipe, fit.best_states(), scores=origin, faces=replace(faces, split=own), overwrite=True)
    return {"best_epoch": last, "best_validation_f1": None, "message": told["note"]}


def _begun(request: FitRequest, recipe: Recipe, split: Split, cache: CacheOptions) -> tuple[Fit, FaceDataset]:
    """A fit of the recipe on the run's photos with this split of the people, with the request's share of the machine."""
    from maskcls.data.dataset import FaceDataset
    from maskcls.machine import default_loader_workers, set_threads, use_deterministic_kernels
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData

    set_threads(max(1, request.cpus))  # said anew for each fit: Ray's workers are reused
    use_deterministic_kernels()
    stored = FaceDataset.load(SearchRun(request.run).data, cache)
    faces = replace(stored, split=split)
    device = "cuda" if request.gpus > 0 else "cpu"
    workers, stores = default_loader_workers(device, request.cpus), faces.feature_stores(shared=True)
    micro_batch = _micro_batch(request)
    return Fit(recipe, FitData.of(faces, recipe), device, workers, micro_batch=micro_batch, stores=stores), faces


def _micro_batch(request: FitRequest) -> int:
    """The least that the fit's trial had to come to, so that what did not fit there is not tried again; 0 where nothing is recorded."""
    from maskcls.training.conditions import segments

    recorded = segments(SearchRun(request.run).trial(request.settings["trial"]))
    return min((segment.conditions.micro_batch for segment in recorded), default=0)


def _epochs(fit: Fit, folder: Path) -> Iterator[EpochResult]:
    """The fit's epochs, taken up from its state in the folder, where each is kept before it is yielded."""
    done = len(fit.history) if fit.resume(folder) else 0
    for result in fit.epochs():
        if result.epoch > done:
            fit.save(folder)
        yield result


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """Around all that holds a fit: Ray's worker lives on, and others want it."""
    try:
        yield
    finally:
        machine.give_back_memory()
