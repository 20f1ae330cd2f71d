"""What became of photos since their table was made: gone or new, with other content, or with other labels.

A photo's content is known by its size and a part of its bytes, so that thousands are compared in a second. The time of
its file does not count: a copy has another one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import pandas as pd

from maskcls.data.identical import READERS
from maskcls.data.pool import over_photos, photo_bar
from maskcls.text import counted, first, plural, shown

_TABLES = (".csv", ".parquet")
PART_BYTES = 4096
"""Read in the middle and at the end of a file: the head of a photo is often the same in many."""
_BLOCK = 100
"""Files that a thread reads in turn: a hand-over to a thread takes longer than to read a file from the page cache."""
NAMED = 3
LABELS = ("person", "label", "mask", "gender", "age_group", "age")
"""Columns of a photo table that say what a photo shows."""


@dataclass(frozen=True)
class Changes:
    """Keys of the photos that are not what they were, by what happened to them. False where there are none."""

    content: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        """Return it in one line: `2 photos have other content (a.jpg, b.jpg), 1 photo is new (c.jpg)`."""
        have, are = partial(plural, one="has", several="have"), partial(plural, one="is", several="are")
        said = (
            (self.content, have, "other content"),
            (self.labels, have, "other labels"),
            (self.gone, are, "gone"),
            (self.new, are, "new"),
        )
        return ", ".join(
            f"{counted(len(keys), 'photo')} {verb(len(keys))} {what} ({first(list(map(shown, keys)), NAMED)})"
            for keys, verb, what in said
            if keys
        )


def fingerprints(files: Sequence[str], progress: bool = False) -> list[str]:
    """Return 16 hex digits of each file's size and of a part of its content; "" of one that cannot be read."""
    found: list[str] = []
    blocks = [files[start : start + _BLOCK] for start in range(0, len(files), _BLOCK)]
    with photo_bar("Comparing photos", len(files), progress) as advance:
        for fingerprints_of_block in over_photos(_of_block, blocks, threads=READERS):
            found += fingerprints_of_block
            advance(len(fingerprints_of_block))
    return found


def _of_block(files: Sequence[str]) -> list[str]:
    return [_fingerprint(file) for file in files]


def _fingerprint(file: str) -> str:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return ""
    try:
        size = os.fstat(descriptor).st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=8)
        for start in (size // 2, max(size // 2, size - PART_BYTES)):
            digest.update(os.pread(descriptor, PART_BYTES, start))
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def sources_digest(*places: Path | None) -> str:
    """Return 12 hex digits of what says which photos there are and what they show, far sooner than a table is read.

    Args:
        places: a table counts by its content, a folder by the names of all files in it and the content of its tables.
            What is None or not there counts as such.
    """
    found = hashlib.sha256()
    for place in places:
        files = _files_in(place) if place is not None and place.is_dir() else [place]
        for file in files:
            name = "" if file is None or place is None else os.path.relpath(file, place)
            is_table = file is not None and file.suffix.lower() in _TABLES and file.is_file()
            content = file.read_bytes() if file is not None and is_table else b""
            found.update(f"{len(name)} {len(content)} ".encode() + os.fsencode(name) + content)
    return found.hexdigest()[:12]


def _files_in(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(parent, name) for name in sorted(names)]
    return found


def changes(
    before: pd.DataFrame, now: pd.DataFrame, known: Mapping[str, str], found: Mapping[str, str], *, by_labels: bool
) -> Changes:
    """Return what differs of two photo tables.

    Args:
        known: fingerprints by key as they were; without a photo's, its size in `before` counts.
        found: fingerprints by key as they are, "" where a file cannot be read.
        by_labels: whether labels are compared, and whether there are new photos.
    """
    keys = before["key"].tolist()
    there = set(now["key"])
    gone = {key for key in keys if key not in there or not found[key]}
    kept = [key for key in keys if key not in gone]
    sizes_before, sizes_now = (
        dict(zip(table["key"], table["size_bytes"].tolist(), strict=True)) for table in (before, now)
    )
    content = [
        key for key in kept if (found[key] != known[key] if key in known else sizes_before[key] != sizes_now[key])
    ]
    relabelled = _relabelled(before, now, kept) if by_labels else []
    new = sorted(there - set(keys)) if by_labels else []
    return Changes(tuple(content), tuple(relabelled), tuple(key for key in keys if key in gone), tuple(new))


def _relabelled(before: pd.DataFrame, now: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    old, new = (table.set_index("key").loc[list(keys)] for table in (before, now))
    differs = pd.Series(False, index=old.index)
    for name in LABELS:
        if name in old and name in new:
            a, b = old[name], new[name]
            differs |= (a != b) & ~(a.isna() & b.isna())
    return differs[differs].index.tolist()
