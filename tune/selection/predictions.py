"""What a repeat or a bundle predicts, on disk: answers.npz with the photos' keys, true classes, log probabilities."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import DataError
from maskcls.files import replacing

PREDICTIONS = "answers.npz"


def write_predictions(
    folder: Path, keys: list[str], truth: NDArray[np.int64], log_probabilities: NDArray[np.float64]
) -> None:
    """Write the predictions for n photos into the folder, without pickle.

    Args:
        folder: the repeat's, or the bundle's for one side of the split.
        keys: of the photos, n.
        truth: (n,) classes 0..17.
        log_probabilities: (n, 18), stored as float32.
    """
    stored = log_probabilities.astype(np.float32)  # half the bytes; an ensemble averages far above that precision
    with replacing(folder / PREDICTIONS) as stream:
        # Keys as text of fixed width: an array of objects would be pickled.
        np.savez(stream, keys=np.array(keys, dtype=str), truth=truth, log_probabilities=stored)


def read_predictions(folder: Path) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.float32]]:
    """Keys, true classes (n,) and log probabilities (n, 18), as `write_predictions` wrote them.

    Raises DataError where the file is missing or damaged.
    """
    file = folder / PREDICTIONS
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return tuple(arrays["keys"].tolist()), arrays["truth"], arrays["log_probabilities"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file} cannot be read ({error}). Remove the folder {folder}, and they are made again."
        ) from None
