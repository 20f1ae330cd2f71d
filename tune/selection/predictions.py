"""What a repeat answers, kept beside its result: answers.npz, with the photos' keys, their true classes, and log probabilities."""

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
    """(n,) keys, (n,) classes 0..17, (n, 18), which are kept as float32. No pickle."""
    with replacing(folder / PREDICTIONS) as stream:
        np.savez(
            stream, keys=np.array(keys, dtype=str), truth=truth, log_probabilities=log_probabilities.astype(np.float32)
        )


def read_predictions(folder: Path) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.float32]]:
    """What `write_predictions` wrote. Raises DataError where it is missing or damaged."""
    file = folder / PREDICTIONS
    try:
        with np.load(file, allow_pickle=False) as found:
            return tuple(found["keys"].tolist()), found["truth"], found["log_probabilities"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file} cannot be read ({error}). Remove the folder {folder}, and the fit is done again."
        ) from None
