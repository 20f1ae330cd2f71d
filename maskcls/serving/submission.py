"""Tables of answers, a row a photo: the contest's `ImageID,ans`, as truth or as a submission, read and written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.data.photos import list_photos
from maskcls.errors import CallError, DataError
from maskcls.files import read_csv, write_csv
from maskcls.labels import CLASS_NAMES, N_CLASSES

INFO, IMAGE, ANSWER = "info.csv", "ImageID", "ans"
PROBABILITY_COLUMNS = tuple(
    f"p{number}_{name.replace(', ', '_').replace(' ', '_')}" for number, name in enumerate(CLASS_NAMES)
)
"""`p0_worn_male_under_30` to `p17_not_worn_female_over_59`."""


def read_classes(file: Path) -> dict[str, int]:
    """Class 0..17 by ImageID; other columns are left aside. Raises DataError naming the row of what is wrong."""
    if not file.is_file():
        raise DataError(f"{file} does not exist. Expected a CSV file with the columns {IMAGE},{ANSWER}.")
    table = read_csv(file)
    table.require([IMAGE, ANSWER])
    classes: dict[str, int] = {}
    for line, row in table.rows:
        image, class_ = row[IMAGE], row[ANSWER]
        if image in classes:
            raise DataError(f"{file}, line {line}: {image} stands there a second time. Leave one row per photo.")
        if not class_.isdecimal() or int(class_) >= N_CLASSES:
            raise DataError(f"{file}, line {line}: {ANSWER} must be a class 0..{N_CLASSES - 1}, but is {class_!r}.")
        classes[image] = int(class_)
    if not classes:
        raise DataError(f"{file} has no rows. Expected one row per photo: {IMAGE},{ANSWER}.")
    return classes


def classes_of(images: Sequence[str], classes: dict[str, int], file: Path) -> NDArray[np.int64]:
    """(n,) classes of the images. Raises DataError where `classes`, read from `file`, lack some."""
    missing = [image for image in images if image not in classes]
    if missing:
        raise DataError(
            f"{file} lacks {len(missing):,} of {len(images):,} photos, {missing[0]} the first. Add their rows."
        )
    return np.array([classes[image] for image in images], np.int64)


def write_submission(file: Path, images: Iterable[str], classes: Iterable[int]) -> None:
    """A submission: ImageID,ans, a row a photo in the order given. Atomic."""
    write_csv(file, (IMAGE, ANSWER), zip(images, classes, strict=True))


def write_probabilities(file: Path, images: Iterable[str], probabilities: NDArray[np.float64]) -> None:
    """ImageID and the 18 probabilities, columns PROBABILITY_COLUMNS. Atomic."""
    rows = ((image, *(f"{p:.6g}" for p in row)) for image, row in zip(images, probabilities.tolist(), strict=True))
    write_csv(file, (IMAGE, *PROBABILITY_COLUMNS), rows)


def find_photos(images: Path) -> pd.DataFrame:
    """`photos.list_photos`, for which a folder with an info.csv, the contest's eval/, is that table."""
    return list_photos(images / INFO if (images / INFO).is_file() else images)


def check_out(file: Path) -> None:
    """Raises CallError where a table could not be written: ask before the work, not after it."""
    if file.is_dir():
        raise CallError(f"--out {file} is a folder. Name a file, as in {file / 'submission.csv'}.")
    if not file.parent.is_dir():
        raise CallError(f"--out {file}: there is no folder {file.parent}. Make it first, or name another.")
