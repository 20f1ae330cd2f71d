"""A finalist's confusion matrix over the 18 classes, from what its repeats predict for their validation people."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from maskcls.labels import N_CLASSES
from maskcls.reports.plots import to_png
from tune.fitting.result import FitResult
from tune.report.group_plots import CONFUSION_STYLE, draw_confusion
from tune.runs.folder import SearchRun
from tune.selection.predictions import PREDICTIONS, read_predictions


def trials_with_predictions(run: SearchRun) -> frozenset[str]:
    """Return the ids of the trials that have a complete repeat."""
    results = (FitResult.read(file.parent) for file in run.finalists.glob(f"*/{PREDICTIONS}"))
    return frozenset(str(one.settings["trial"]) for one in results if one is not None and "trial" in one.settings)


def predictions_of(run: SearchRun, trial_id: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the true and the predicted classes (n,) of a trial's complete repeats, all of them together.

    Raises DataError where a file is damaged.
    """
    truths, predicted = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for file in sorted(run.finalists.glob(f"*/{PREDICTIONS}")):
        result = FitResult.read(file.parent)
        if result is not None and result.settings.get("trial") == trial_id:
            _, truth, log_probabilities = read_predictions(file.parent)  # (m,), (m, 18)
            truths.append(truth)
            predicted.append(log_probabilities.argmax(1))
    return np.concatenate(truths), np.concatenate(predicted)


def confusion_png(truth: NDArray[np.int64], predictions: NDArray[np.int64], title: str) -> bytes:
    """Draw how often each class was predicted for photos of each class, as a PNG file.

    Args:
        truth: (n,) classes 0..17.
        predictions: (n,) classes 0..17.
    """
    counts = confusion_matrix(truth, predictions, labels=range(N_CLASSES))  # (18, 18): a row per true class
    with mpl.rc_context(CONFUSION_STYLE):
        return to_png(draw_confusion(counts, "classes", f"{title}: {len(truth):,} predictions"))
