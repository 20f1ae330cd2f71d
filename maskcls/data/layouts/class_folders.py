"""The adapter of folders named by labels: <mask>/<gender>/<age_group>/ with photos, or with people's folders, in it.

A folder `unknown` in place of a label is a gap.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from maskcls.data.decoding.kinds import is_photo
from maskcls.data.layouts.contents import NOT_PHOTOS, Contents
from maskcls.data.layouts.people import with_people
from maskcls.data.layouts.rows import COLUMNS, PhotoRow, add_rows
from maskcls.data.layouts.words import expected, index_of
from maskcls.data.problems import Problem
from maskcls.files import unreadable
from maskcls.labels import UNKNOWN
from maskcls.text import counted, is_utf8, shown

LEVELS = ("mask", "gender", "age_group")
"""What the folders of each level say."""
GAP = "unknown"


def is_one(data: Path) -> bool:
    """Whether a folder has a folder that is named by a mask state."""
    try:
        return any(index_of("mask", entry.name) in (0, 1, 2) and entry.is_dir() for entry in os.scandir(data))
    except OSError:
        return False


def scan(data: Path, people_from: str | None = None) -> Contents:
    """List the photos in folders of labels; all problems in one pass, and no photo is opened.

    Args:
        people_from: as of `table.scan`; of a folder the part below the age group is the person.
    """
    contents = Contents(data, "the folders' names")
    others: list[str] = []
    rows = [
        PhotoRow(shown(file), {**dict.fromkeys(COLUMNS, ""), **labels, "file": file})
        for file, labels in _photos(contents, "", {}, others)
    ]
    if others:
        contents.notes.append(f"Not used: {counted(len(others), *NOT_PHOTOS)}, as {shown(others[0])}.")
    if not rows:
        contents.problem("folder", ".", f"{shown(data)} has no photos in <mask>/<gender>/<age_group>/. Check the path.")
        return contents
    add_rows(contents, with_people(rows, people_from, contents, labelled_folders=len(LEVELS)))
    return contents


def _photos(
    contents: Contents, below: str, labels: dict[str, str], others: list[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each photo's path and labels, from the folder `below` the data; add a problem for what has no place."""
    try:
        entries = sorted(os.scandir(contents.root / below), key=lambda entry: entry.name)
    except OSError as error:
        contents.problems.append(Problem("person folder", shown(below), unreadable(below, error)))
        return
    for entry in entries:
        path = f"{below}{entry.name}"
        if entry.name.startswith("."):
            continue
        if not is_utf8(path):
            contents.problem("photo name", path, "has a name that is not UTF-8. Rename it.")
        elif entry.is_dir():
            column = LEVELS[len(labels)] if len(labels) < len(LEVELS) else ""
            if column and entry.name.lower() != GAP and index_of(column, entry.name) in (None, UNKNOWN):
                contents.problem(
                    "mask" if column == "mask" else "gender" if column == "gender" else "age",
                    path,
                    f"is no folder of a label. {expected(column, entry.name)} Or {GAP}. Rename it.",
                )
                continue
            word = {column: "" if entry.name.lower() == GAP else entry.name} if column else {}
            yield from _photos(contents, f"{path}/", {**labels, **word}, others)
        elif not is_photo(Path(entry.path)):
            others.append(path)
        elif len(labels) < len(LEVELS):
            contents.problem(
                "photo name", path, f"stands above the folders <{'>/<'.join(LEVELS)}>. Move it into one of them."
            )
        else:
            yield path, labels
