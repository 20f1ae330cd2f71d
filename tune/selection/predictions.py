"""What a repeat or a bundle predicts, on disk: answers.npz with the photos' keys, true classes, log probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import RunError
from maskcls.files import FileKind, replacing
from maskcls.labels import N_CLASSES
from maskcls.text import counted

PREDICTIONS = "answers.npz"
PREDICTIONS_FILE = FileKind(
    "predictions for photos", "Remove the folder {folder}, and they are made again.", most_bytes=1 << 36
)
SUM_TOLERANCE = 1e-2
"""Of a photo's probabilities, stored as float32 logarithms, around 1."""


def write_predictions(
    folder: Path, keys: list[str], truth: NDArray[np.int64], log_probabilities: NDArray[np.float64]
) -> None:
    """Write the predictions for n photos into the folder, without pickle.

    Args:
        folder: the repeat's, or the bundle's for one side of the split.
        keys: of the photos, n.
        truth: (n,) classes 0..17.
        log_probabilities: (n, 18), stored as float32; minus infinity for a probability of 0.

    Raises RunError where one is not a number.
    """
    if np.isnan(log_probabilities).any():
        raise RunError(f"Log probabilities of {counted(len(keys), 'photo')} are not numbers: the weights are damaged.")
    stored = log_probabilities.astype(np.float32)  # half the bytes; an ensemble averages far above that precision
    with replacing(folder / PREDICTIONS) as stream:
        # Keys as text of fixed width: an array of objects would be pickled.
        np.savez(stream, keys=np.array(keys, dtype=str), truth=truth, log_probabilities=stored)


def read_predictions(folder: Path) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.float32]]:
    """Keys, true classes (n,) and log probabilities (n, 18), as `write_predictions` wrote them.

    Raises Damaged, or Missing.
    """
    file = folder / PREDICTIONS
    with PREDICTIONS_FILE.opened(file) as stream:
        try:
            with np.load(stream, allow_pickle=False) as arrays:
                keys, truth, found = (arrays[name] for name in ("keys", "truth", "log_probabilities"))
        except Exception as error:  # numpy and zipfile raise whatever a damaged file makes them do
            raise PREDICTIONS_FILE.error(file, str(error)[:400]) from None
    with PREDICTIONS_FILE.reading(file):
        _check(keys, truth, found)
    return tuple(keys.tolist()), truth, found


def _check(keys: NDArray[Any], truth: NDArray[Any], found: NDArray[Any]) -> None:
    """Raise ValueError where the arrays are not what `write_predictions` writes."""
    n = len(keys)
    if keys.dtype.kind != "U" or (keys.shape, truth.shape, found.shape) != ((n,), (n,), (n, N_CLASSES)):
        raise ValueError(f"it has arrays of {keys.shape}, {truth.shape} and {found.shape}")
    if truth.dtype != np.int64 or found.dtype != np.float32:
        raise ValueError(f"it has arrays of {truth.dtype} and {found.dtype}")
    if n and not 0 <= truth.min() <= truth.max() < N_CLASSES:
        raise ValueError("it has classes that there are not")
    if np.isnan(found).any() or not (np.abs(np.exp(found.astype(np.float64)).sum(axis=1) - 1) < SUM_TOLERANCE).all():
        raise ValueError("its probabilities do not add up to one")
