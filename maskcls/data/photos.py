"""Photo tables: a contest folder's labelled photos, or the photos to predict, one row per photo."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd

from maskcls.data.contest_folder import Contents, scan
from maskcls.data.corrections import Corrections
from maskcls.data.decoding.kinds import READ_SUFFIXES, is_photo
from maskcls.data.names import match
from maskcls.data.problems import FATAL, refusal
from maskcls.data.tables import read_table, read_text
from maskcls.errors import DataError
from maskcls.files import unreadable
from maskcls.labels import AGE_CUTS, age_group, encode
from maskcls.text import counted, first, shown

log = logging.getLogger("maskcls")

NAMED = 5
"""Files that a message names at most."""


def read_contest(
    data: Path, *, age_cuts: tuple[int, int] = AGE_CUTS, corrections: Corrections | None = None, skip_bad: bool = False
) -> pd.DataFrame:
    """Return the labelled photos under `data`, one row per photo, sorted by person and file name; no photo is opened.

    Columns: file (absolute path), key ("<person>/<file name>", wherever the folder is), person (train.csv's path),
    person_id, race, gender (0, 1), age (years), age_group (0..2), mask (0..2), label (0..17), size_bytes,
    mtime_ns (when the file was last modified, in ns since 1970).

    Raises DataError listing what is wrong, most important first. With `skip_bad` people and photos with problems are
    left out, and the log says how many; a person keeps the photos that are good.
    """
    data = data.absolute()
    contents = scan(data)
    if contents.problems and (
        not skip_bad or not contents.photos or any(problem.kind in FATAL for problem in contents.problems)
    ):
        raise refusal(contents.problems, data)
    if contents.problems:
        _log_left_out(contents)
    return tabulate(contents, age_cuts, corrections)


def tabulate(
    contents: Contents, age_cuts: tuple[int, int] = AGE_CUTS, corrections: Corrections | None = None
) -> pd.DataFrame:
    """Return `read_contest`'s table of the photos that a scan found good."""
    found = sorted(contents.photos, key=lambda photo: (photo.person.path, photo.name))
    photos = pd.DataFrame(
        {
            "file": [photo.file for photo in found],
            "key": [f"{photo.person.path}/{photo.name}" for photo in found],
            "person": [photo.person.path for photo in found],
            "person_id": [photo.person.id for photo in found],
            "race": [photo.person.race for photo in found],
            "gender": [photo.person.gender for photo in found],
            "age": [photo.person.age for photo in found],
            "age_group": 0,  # set below, as is label: both follow from the corrected values
            "mask": [photo.mask for photo in found],
            "label": 0,
            "size_bytes": [photo.size_bytes for photo in found],
            "mtime_ns": [photo.mtime_ns for photo in found],
        }
    )
    if corrections is not None:
        photos = corrections.apply(photos)
    photos["age_group"] = [age_group(age, age_cuts) for age in photos["age"]]
    columns = (photos[name].tolist() for name in ("mask", "gender", "age_group"))
    photos["label"] = [encode(mask, gender, age) for mask, gender, age in zip(*columns, strict=True)]
    return photos


def _log_left_out(contents: Contents) -> None:
    people = contents.rows - len({photo.person.path for photo in contents.photos})
    photos = sum(problem.kind in ("photo", "photo name") for problem in contents.problems)
    fewer = sum(problem.kind == "missing photos" for problem in contents.problems)
    log.warning(
        "--skip-bad: %d rows of train.csv and %d further photo files are left out; "
        "%d people have fewer than seven photos.",
        people,
        photos,
        fewer,
    )


def list_photos(images: Path) -> pd.DataFrame:
    """Return the photos to predict: columns file (absolute path) and key (ImageID, or the path as found).

    Args:
        images: a folder (searched with all its subfolders, links followed, sorted by path), the contest's info.csv
            (its rows and order, files in images/ beside it), a text file with one path per line (relative to the
            current folder, or to the file), or one photo. What is a photo in a folder, `kinds.is_photo` says; the log
            counts what is not.

    Raises DataError naming what is missing, what cannot be read, and photos whose names no table can hold.
    """
    if images.is_dir():
        keys, files = _in_folder(images)
    elif not images.is_file():
        raise DataError(
            f"{images} does not exist. "
            "Expected a folder of photos, the contest's info.csv, or a text file with one path per line."
        )
    elif images.suffix.lower() == ".csv":
        keys, files = _in_info(images)
    elif is_photo(images):
        keys, files = [images.name], [images]
    else:
        keys, files = _in_list(images)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{images} names {counted(len(files), 'photo')}, but there is no {first(missing, 1)}. "
            "Copy them there, or remove the rows."
        )
    return pd.DataFrame({"file": [str(file.absolute()) for file in files], "key": keys}, dtype=str)


def _in_folder(images: Path) -> tuple[list[str], list[Path]]:
    photos: list[tuple[str, Path]] = []
    others: list[str] = []
    for key, file in _files_below(images, "", ()):
        if is_photo(file):
            photos.append((key, file))
        else:
            others.append(key)
    if others:
        log.info(
            "%s: %s of another kind than photos %s passed over: %s.",
            shown(images),
            counted(len(others), "file"),
            "is" if len(others) == 1 else "are",
            first(list(map(shown, sorted(others))), NAMED),
        )
    if not photos:
        raise DataError(
            f"{shown(images)} holds no photo. Expected files that end in {', '.join(sorted(READ_SUFFIXES))}. "
            "Check the path."
        )
    unwritable = sorted(shown(key) for key, _ in photos if key != shown(key))
    if unwritable:
        raise DataError(
            f"{shown(images)} has {counted(len(unwritable), 'photo')} whose names are not UTF-8, or have line breaks, "
            f"so that no table can hold them: {first(unwritable, NAMED)}. Rename them."
        )
    photos.sort()  # the order of a folder depends on the file system
    return [key for key, _ in photos], [file for _, file in photos]


def _files_below(folder: Path, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder and of all below it, each with its path from the first one; hidden ones are not.

    Links are followed, unless they lead back to a folder that holds them, which the log says.
    """
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(unreadable(folder, error)) from None
    here = (status.st_dev, status.st_ino)
    if here in parents:
        log.warning("%s is a link to a folder that holds it, and is not entered again.", shown(folder))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files_below(folder / entry.name, f"{prefix}{entry.name}/", (*parents, here))
        else:  # a link to nothing, too: it is named as missing
            yield f"{prefix}{entry.name}", folder / entry.name


def _in_info(info: Path) -> tuple[list[str], list[Path]]:
    table = read_table(info)
    table.require(["ImageID"])
    if table.note:
        log.info(table.note)
    for line, row in table.rows:
        if not row["ImageID"]:
            raise DataError(f"{info}, line {line}: ImageID is empty. Expected a photo's name. Correct the row.")
    keys = [row["ImageID"] for _, row in table.rows]
    if not keys:
        raise DataError(f"{info} has no rows. Expected ImageID,ans and one row per photo. Copy it again.")
    return keys, _named_in(info.parent / "images", keys, info)


def _named_in(folder: Path, keys: list[str], table: Path) -> list[Path]:
    """Return the files of a folder that a table names, under the names that they have there."""
    matches = match(keys, _names_in(folder))
    if matches.by_number:
        log.warning(matches.note(f"the photos in {table}"))
    return [folder / matches.found.get(key, key) for key in keys]


def _in_list(listing: Path) -> tuple[list[str], list[Path]]:
    lines = read_text(listing, "one photo's path per line").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise DataError(f"{listing} is empty. Expected one photo's path per line.")
    names_in = cache(_names_in)  # of this list alone: a folder may change

    def found(key: str) -> Path:
        places = (Path(key), listing.parent / key)
        return next(filter(None, (_found(place, names_in) for place in places)), places[1])

    return keys, list(map(found, keys))


def _found(file: Path, names_in: Callable[[Path], Iterable[str]]) -> Path | None:
    """Return the file under the name that it has on the disk; None if it isn't there."""
    if file.is_file():
        return file
    name = match([file.name], names_in(file.parent)).found.get(file.name)
    return file.with_name(name) if name and file.with_name(name).is_file() else None


def _names_in(folder: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - a Path for each photo would double the time
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise DataError(unreadable(folder, error)) from None
