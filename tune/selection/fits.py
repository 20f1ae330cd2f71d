"""The fits of a selection: repeats leave predictions, stopped finalists trained to their end a checkpoint, the fit on
all people a bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcls.data.dataset import FaceDataset
from maskcls.serving.export import export
from maskcls.training.fit_data import scored_rows
from tune.fitting.request import FitRequest, Rows
from tune.fitting.worker import After, run_fit
from tune.runs.folder import SearchRun
from tune.selection.predictions import write_predictions
from tune.selection.retrain import MADE

if TYPE_CHECKING:
    from maskcls.stores.cache_options import CacheOptions
    from maskcls.training.fit import Fit


class _WritePredictions(After):
    """Writes what the best epoch predicts for the validation people's photos that have all labels."""

    def result(self, fit: Fit, request: FitRequest, dataset: FaceDataset) -> dict[str, Any]:
        rows = scored_rows(dataset, "validation")  # (n,) of the photo table, in rising order
        keys = dataset.photos["key"].to_numpy(object)[rows].tolist()
        # Truth (n,) and log probabilities (n, 18) of the best epoch.
        write_predictions(request.folder, keys, dataset.photos["label"].to_numpy(np.int64)[rows], fit.log_probs(rows))
        return {"split_digest": dataset.split.digest}


class _ExportOnAll(After):
    """Writes what becomes best-on-all/, into the fit's folder: the worker's disk need not be the driver's. Nobody was
    left to score it on, so it has no score."""

    def result(self, fit: Fit, request: FitRequest, dataset: FaceDataset) -> dict[str, Any]:
        run, note, last = SearchRun(request.run), request.settings["note"], len(fit.history)
        own = FaceDataset.load(run.data, dataset.cache).split  # the bundle says who stood where in the search
        scores = {"note": note, "run": run.name, "trial": request.trial, "fit": request.trial_id, "epoch": last}
        export(
            request.folder / MADE,
            fit.recipe,
            fit.best_states(),
            scores=scores,
            faces=replace(dataset, split=own),
            overwrite=True,
        )
        # In place of the curve's values: its score is NO_SCORE, which stands for none.
        return {"best_epoch": last, "best_validation_f1": None, "message": note}


def repeat_fit(request: FitRequest, *, cache: CacheOptions) -> Rows:
    """Fit one repeat of a finalist. Leaves answers.npz for its validation people."""
    return run_fit(request, cache=cache, after=_WritePredictions())


def finish_fit(request: FitRequest, *, cache: CacheOptions) -> Rows:
    """Fit a finalist that was stopped early, from where its trial stood to the recipe's last epoch."""
    return run_fit(request, cache=cache)


def choice_fit(request: FitRequest, *, cache: CacheOptions) -> Rows:
    """Fit what a choice needs: a repeat, or a finalist to its end."""
    return (finish_fit if request.continues_trial else repeat_fit)(request, cache=cache)


def fit_on_all(request: FitRequest, *, cache: CacheOptions) -> Rows:
    """Fit the winner's recipe on train and validation people, whom nobody validates, and write its bundle."""
    return run_fit(request, cache=cache, after=_ExportOnAll())
