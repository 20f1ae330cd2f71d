"""Whom photos show where nothing says so: asked of the user, because photos of one person must not be split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from maskcls.data.decoding.decode import decode
from maskcls.data.layouts.contents import Contents
from maskcls.data.layouts.finding import find_files
from maskcls.data.layouts.rows import PhotoRow, key_of
from maskcls.data.near_duplicates import perceptual_hash, search
from maskcls.data.pool import over_photos
from maskcls.data.problems import Problem
from maskcls.errors import CallError, DataError
from maskcls.text import counted, plural, shown

FOLDER, NONE = "folder", "none"
PEOPLE_FROM = (FOLDER, NONE)
"""What --people-from may be: the files of one folder are one person, or each photo is of another person."""
LOOKED_AT = 2000
"""Photos that are compared for a refusal, at most: a few seconds."""


def check_people_from(given: str | None) -> None:
    """Raise CallError for a word that is not in PEOPLE_FROM."""
    if given is not None and given not in PEOPLE_FROM:
        raise CallError(f"--people-from expects {' or '.join(PEOPLE_FROM)}, but got {given!r}.")


def with_people(
    rows: Sequence[PhotoRow], people_from: str | None, contents: Contents, labelled_folders: int = 0
) -> list[PhotoRow]:
    """Return the rows, each with the person where that was empty.

    Where no row names a person and `people_from` is None, a problem is added, and there are no rows.

    Args:
        labelled_folders: how many folders of a path, counted from the first, are labels and no people.
    """
    check_people_from(people_from)
    if people_from is None:
        if any(row.cells["person"] for row in rows):
            return list(rows)
        contents.problems.append(Problem("people", ".", _refusal(rows, contents, labelled_folders)))
        return []
    return list(_filled(rows, people_from, contents, labelled_folders))


def _filled(
    rows: Sequence[PhotoRow], people_from: str, contents: Contents, labelled_folders: int
) -> Iterator[PhotoRow]:
    for row in rows:
        if row.cells["person"]:
            yield row
            continue
        person = _folder(row, labelled_folders) if people_from == FOLDER else key_of(row.cells)
        if person or not row.cells["file"]:
            yield replace(row, cells={**row.cells, "person": person or row.place})
        else:
            message = (
                "the photo stands in no folder of one person, which --people-from folder needs. "
                "Put each person's photos into a folder of their own."
            )
            contents.problems.append(Problem("person", row.place, f"{row.who}: {message}"))


def _folder(row: PhotoRow, labelled_folders: int) -> str:
    """Return the folder of the row's photo, below folders that are labels; empty if there is none."""
    folder = Path(row.cells["file"].replace("\\", "/")).parent
    person = str(Path(*folder.parts[labelled_folders:]))
    return "" if person == "." else person


def _refusal(rows: Sequence[PhotoRow], contents: Contents, labelled_folders: int) -> str:
    folders = Counter(filter(None, (_folder(row, labelled_folders) for row in rows)))
    together = sum(n for n in folders.values() if n > 1)
    seen = []
    if together:
        example = next(folder for folder, n in folders.items() if n > 1)
        seen.append(
            f"{counted(together, 'photo')} of {len(rows):,} {plural(together, 'stands', 'stand')} in a folder with "
            f"others, as in {shown(example)}."
        )
    seen += filter(None, [_near_identical(rows, contents)])
    return (
        f"{shown(contents.root)}: nothing in {contents.source} says whom a photo shows, and photos of one person in "
        f"training and in validation make scores too good. {' '.join([*seen, ''])}Add a column person; or give "
        f"--people-from {FOLDER} if each folder of photos shows one person, or --people-from {NONE} if each photo "
        "shows another person."
    )


def _near_identical(rows: Sequence[PhotoRow], contents: Contents) -> str:
    """Return a sentence on photos that look nearly like another; empty if none is found.

    Of many photos a part is compared, spread evenly.
    """
    step = max(1, len(rows) // LOOKED_AT)
    cells = list(islice((row.cells["file"] for row in rows), 0, None, step))[:LOOKED_AT]
    found = find_files(contents.root, cells)
    kept = [(cell, str(file)) for cell, file in zip(cells, found.files, strict=True) if file is not None]
    hashes = list(over_photos(_hash, [file for _, file in kept]))
    good = [at for at, one in enumerate(hashes) if one is not None]
    if not good:
        return ""
    numbers = np.arange(len(good))
    near = search(np.stack([one for one in hashes if one is not None]), numbers, numbers)
    if not near.n_across:
        return ""
    pair = near.across[0]
    compared = f" of {len(good):,} that were compared" if step > 1 else ""
    alike = {row for pair in near.across for row in (pair.first, pair.second)}
    return (
        f"{counted(len(alike), 'photo')}{compared} look nearly like another, as "
        f"{shown(kept[good[pair.first]][0])} and {shown(kept[good[pair.second]][0])}."
    )


def _hash(file: str) -> np.ndarray | None:
    try:
        return perceptual_hash(decode(file).rgb)
    except DataError:
        return None
