"""Photo tables: the labelled photos of a layout, or the photos to predict, one row per photo."""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import isnan
from pathlib import Path

import pandas as pd

from maskcls.data.corrections import Corrections
from maskcls.data.decoding.kinds import READ_SUFFIXES, is_photo
from maskcls.data.layouts import table
from maskcls.data.layouts.contents import Contents
from maskcls.data.layouts.finding import find_files, names_in
from maskcls.data.layouts.rows import key_of
from maskcls.data.layouts.scan import scan
from maskcls.data.names import match
from maskcls.data.problems import FATAL, refusal
from maskcls.data.tables import Table, as_text, read_table, read_text
from maskcls.errors import DataError, NoSuchPath
from maskcls.files import unreadable
from maskcls.labels import UNKNOWN, age_group, encode
from maskcls.text import counted, first, shown

log = logging.getLogger("maskcls")

IMAGE = "ImageID"
"""The column that names photos in the contest's tables."""
STANDARD_INPUT, _SOURCE_OF_STDIN = Path("-"), "standard input"
LISTING = "one photo's path per line"
NAMED = 5
"""Files that a message names at most."""


def read_photos(
    data: Path,
    *,
    corrections: Corrections | None = None,
    skip_bad: bool = False,
    people_from: str | None = None,
) -> pd.DataFrame:
    """Return the labelled photos that `data` names, one row per photo, sorted by person and key; no photo is opened.

    Columns: file (absolute path), key (a name that is unique in the data, wherever its folder is), person (of the
    contest train.csv's path), person_id, race, gender (0, 1), age (years), age_group (0..2), mask (0..2),
    label (0..17), size_bytes, mtime_ns (when the file was last modified, in ns since 1970), and further columns of the
    table, as text. What is not known is UNKNOWN; an age that is not known is nan, and then the ages are floats. The
    label is known where mask, gender and age group are.

    Args:
        people_from: as of `layouts.scan.scan`.

    Raises DataError listing what is wrong, most important first. With `skip_bad` people and photos with problems are
    left out, and the log says how many; a person keeps the photos that are good.
    """
    data = data.absolute()
    contents = scan(data, people_from)
    if contents.problems and (
        not skip_bad or not contents.photos or any(problem.kind in FATAL for problem in contents.problems)
    ):
        raise refusal(contents.problems, data)
    if contents.problems:
        _log_left_out(contents)
    if not contents.of_people:  # of the contest's folder `maskcls.check` says what is only worth knowing
        for note in contents.notes:
            log.info(note)
    return tabulate(contents, corrections)


def tabulate(contents: Contents, corrections: Corrections | None = None) -> pd.DataFrame:
    """Return `read_photos`'s table of the photos that a scan found good."""
    found = sorted(contents.photos, key=lambda photo: (photo.person.path, photo.key))
    photos = pd.DataFrame(
        {
            "file": [photo.file for photo in found],
            "key": [photo.key for photo in found],
            "person": [photo.person.path for photo in found],
            "person_id": [photo.person.id for photo in found],
            "race": [photo.person.race for photo in found],
            "gender": [photo.person.gender for photo in found],
            "age": [photo.person.age for photo in found],  # floats if one is None, which is nan then
            "age_group": [photo.person.age_group for photo in found],
            "mask": [photo.mask for photo in found],
            "label": UNKNOWN,  # set below, because it follows from the corrected values
            "size_bytes": [photo.size_bytes for photo in found],
            "mtime_ns": [photo.mtime_ns for photo in found],
            **{name: [photo.more[name] for photo in found] for name in contents.columns},
        }
    )
    if photos["age"].isna().any():
        photos["age"] = photos["age"].astype(float)  # of None alone pandas makes objects
    if corrections is not None:
        photos = corrections.apply(photos)
    photos["age_group"] = [
        group if isnan(age) else age_group(age) for age, group in zip(photos["age"], photos["age_group"], strict=True)
    ]
    columns = (photos[name].tolist() for name in ("mask", "gender", "age_group"))
    photos["label"] = [UNKNOWN if UNKNOWN in known else encode(*known) for known in zip(*columns, strict=True)]
    return photos


def _log_left_out(contents: Contents) -> None:
    if not contents.of_people:
        log.warning("--skip-bad: %d of %d photos are left out.", contents.rows - len(contents.photos), contents.rows)
        return
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
            (its rows and order, files in images/ beside it), a table of photos (its rows and order, keys and files as
            `layouts.table` has them), a text file with one path per line, `-` for such lines from standard input, one
            photo, or a pattern as `glob` has it (sorted by path). Paths are relative to the current folder, or to the
            file that names them. What is a photo in a folder or among what a pattern finds, `kinds.is_photo` says; the
            log counts what is not.

    Raises DataError naming what is missing, what cannot be read, and photos whose names no table can hold.
    """
    keys, files = _listed(images)
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{images} names {counted(len(files), 'photo')}, but there is no {first(missing, 1)}. "
            "Copy them there, or remove the rows."
        )
    return pd.DataFrame({"file": [str(file.absolute()) for file in files], "key": keys}, dtype=str)


def _listed(images: Path) -> tuple[list[str], list[Path]]:
    """Keys and files, which need not be there."""
    if images == STANDARD_INPUT:
        text = as_text(sys.stdin.buffer.read(), _SOURCE_OF_STDIN, LISTING)
        return _in_lines(text, Path(), _SOURCE_OF_STDIN)
    if images.is_dir():
        return _photos_among(images, _files_below(images, "", ()))
    if not images.is_file():
        if glob.has_magic(str(images)):
            found = glob.iglob(str(images), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            return _photos_among(images, ((name, Path(name)) for name in found if not Path(name).is_dir()))
        raise NoSuchPath(
            f"{images} does not exist. "
            "Expected a folder of photos, the contest's info.csv, a table of photos, or a text file with one path per "
            "line."
        )
    if images.suffix.lower() in table.SUFFIXES:
        return _in_table(images)
    if is_photo(images):
        return [images.name], [images]
    return _in_lines(read_text(images, LISTING), images.parent, images)


def _photos_among(images: Path, found: Iterable[tuple[str, Path]]) -> tuple[list[str], list[Path]]:
    """Return the photos among the files of a folder or pattern, sorted by their keys."""
    photos: list[tuple[str, Path]] = []
    others: list[str] = []
    for key, file in found:
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


def _in_table(file: Path) -> tuple[list[str], list[Path]]:
    """Return keys and files of the contest's info.csv, or of a table of photos."""
    found = read_table(file)
    if found.note:
        log.info(found.note)
    photos = table.with_plain_columns(found)
    if "file" not in photos.columns or IMAGE in photos.columns:
        return _in_info(file, found)
    for line, row in photos.rows:
        if not row["file"]:
            raise DataError(f"{photos.place(line)}: file is empty. Expected a photo's path. Correct the row.")
    keys = [key_of(row) for _, row in photos.rows]
    if not keys:
        raise DataError(f"{file} has no rows. Expected a column file and one row per photo. Copy it again.")
    repeated = next((key for key, times in Counter(keys).items() if times > 1), None)
    if repeated:
        raise DataError(
            f"{file} names {shown(repeated)} more than once. Expected one row per photo. Remove the others."
        )
    cells = [row["file"] for _, row in photos.rows]
    places = find_files(file.parent, cells)
    if places.note:
        log.warning(places.note)
    return keys, [place or file.parent / cell for place, cell in zip(places.files, cells, strict=True)]


def _in_info(info: Path, table: Table) -> tuple[list[str], list[Path]]:
    table.require([IMAGE])
    for line, row in table.rows:
        if not row[IMAGE]:
            raise DataError(f"{info}, line {line}: ImageID is empty. Expected a photo's name. Correct the row.")
    keys = [row[IMAGE] for _, row in table.rows]
    if not keys:
        raise DataError(f"{info} has no rows. Expected ImageID,ans and one row per photo. Copy it again.")
    return keys, _named_in(info.parent / "images", keys, info)


def _named_in(folder: Path, keys: list[str], table: Path) -> list[Path]:
    """Return the files of a folder that a table names, under the names that they have there."""
    matches = match(keys, names_in(folder))
    if matches.by_number:
        log.warning(matches.note(f"the photos in {table}"))
    return [folder / matches.found.get(key, key) for key in keys]


def _in_lines(text: str, folder: Path, source: object) -> tuple[list[str], list[Path]]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise DataError(f"{source} is empty. Expected one photo's path per line.")
    return keys, _files_named(keys, folder)


def _files_named(keys: list[str], folder: Path) -> list[Path]:
    """Return the files of paths that start in the current folder or in another one."""
    listing_of = cache(names_in)  # of this list alone: a folder may change

    def found(key: str) -> Path:
        places = (Path(key), folder / key)
        return next(filter(None, (_found(place, listing_of) for place in places)), places[1])

    return list(map(found, keys))


def _found(file: Path, listing_of: Callable[[Path], Iterable[str]]) -> Path | None:
    """Return the file under the name that it has on the disk; None if it isn't there."""
    if file.is_file():
        return file
    name = match([file.name], listing_of(file.parent)).found.get(file.name)
    return file.with_name(name) if name and file.with_name(name).is_file() else None
