"""Tables of classes, one row per photo: the contest's `ImageID,ans`, as truth or as a submission, read; and the photos
that one is made of.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from maskcls.data.names import match
from maskcls.data.photos import IMAGE, list_photos
from maskcls.data.tables import read_table
from maskcls.errors import CallError, DataError, NoSuchPath
from maskcls.files import check_writable_name, no_formulas, write_csv
from maskcls.labels import N_CLASSES
from maskcls.serving.predicting.tables import ANSWER
from maskcls.text import first_lines, printable

log = logging.getLogger("maskcls")

INFO, ERROR = "info.csv", "error"
LISTED = 20
"""Photos that a message lists at most."""


def read_classes(file: Path) -> dict[str, int]:
    """Read the class 0..17 of each ImageID; other columns are ignored. Raises DataError that names the wrong line."""
    if not file.exists():
        raise NoSuchPath(f"{file} does not exist. Expected a CSV file with the columns {IMAGE},{ANSWER}.")
    table = read_table(file)
    table.require([IMAGE, ANSWER])
    if table.note:
        log.info(table.note)
    classes: dict[str, int] = {}
    for line, row in table.rows:
        image, class_ = row[IMAGE], row[ANSWER]
        if not image:
            raise DataError(f"{file}, line {line}: {IMAGE} is empty. Expected a photo's name. Correct the row.")
        if image in classes:
            raise DataError(f"{file}, line {line}: {image} stands there a second time. Leave one row per photo.")
        if not (class_.isascii() and class_.isdecimal() and int(class_) < N_CLASSES):  # no sign, no decimal point
            raise DataError(f"{file}, line {line}: {ANSWER} must be a class 0..{N_CLASSES - 1}, but is {class_!r}.")
        classes[image] = int(class_)
    if not classes:
        raise DataError(f"{file} has no rows. Expected one row per photo: {IMAGE},{ANSWER}.")
    return classes


def classes_of(images: Sequence[str], classes: dict[str, int], file: Path) -> NDArray[np.int64]:
    """The classes (n,) of the images. Raises DataError if `classes`, read from `file`, lack some."""
    matches = match(images, classes)
    if matches.by_number:
        log.warning(matches.note(f"the photos in {file}"))
    missing = [image for image in images if image not in matches.found]
    if missing:
        raise DataError(
            f"{file} lacks {len(missing):,} of {len(images):,} photos, {missing[0]} the first. Add their rows."
        )
    return np.array([classes[matches.found[image]] for image in images], np.int64)


def errors_file(out: Path) -> Path:
    """Return where the photos are listed that could not be read: beside the submission."""
    return out.with_suffix(".errors.csv")


def write_errors(file: Path, images: Sequence[str], bad: Mapping[int, str]) -> None:
    """Write ImageID and what is wrong of each photo that could not be read. Without any, remove an earlier call's file.

    Args:
        bad: by the photo's row, what is wrong.
    """
    if bad:
        messages = no_formulas((message,) for message in bad.values())  # names stay, to be found again
        write_csv(file, (IMAGE, ERROR), ((images[row], *cells) for row, cells in zip(bad, messages, strict=True)))
    else:
        file.unlink(missing_ok=True)


def check_any_predicted(bad: Mapping[int, str], total: int) -> None:
    """Raise DataError if no photo could be read at all; `bad` says of each, by its row, what is wrong."""
    if len(bad) == total:
        raise DataError(_unreadable(bad, total, "nothing was written."))


def say_unreadable(
    bad: Mapping[int, str], total: int, errors: Path, *, accepted: bool, answer: str = "class 0"
) -> None:
    """Say which photos could not be read, if there are any. Raises that as DataError unless it is accepted.

    Args:
        bad: by the photo's row, what is wrong.
        errors: the file that lists them.
        answer: what the output has for them.
    """
    if not bad:
        return
    said = f"their answer is {answer}, and {errors} lists them."
    if not accepted:
        raise DataError(_unreadable(bad, total, f"{said} Mend them, or accept it with --skip-bad."))
    typer.echo(printable(_unreadable(bad, total, said)), err=True)


def _unreadable(bad: Mapping[int, str], total: int, follows: str) -> str:
    heading = f"{len(bad):,} of {total:,} photos could not be read; {follows}"
    return "\n".join([heading, *first_lines(list(bad.values()), LISTED)])


def find_photos(images: Path) -> pd.DataFrame:
    """List photos as `photos.list_photos` does; for a folder with an info.csv (the contest's eval/), that table."""
    # A submission has the rows of the contest's table, in its order.
    return list_photos(images / INFO if (images / INFO).is_file() else images)


def check_out(file: Path, option: str = "--out") -> None:
    """Raise CallError if a table could not be written there: to be asked before the work, not after it."""
    check_writable_name(file, option)
    if file.is_dir():
        raise CallError(f"--out {file} is a folder. Name a file, as in {file / 'submission.csv'}.")
    if not file.parent.is_dir():
        raise CallError(f"--out {file}: there is no folder {file.parent}. Make it first, or name another.")
