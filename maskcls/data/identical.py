"""Photos that stand under several people, byte for byte, and the groups of people that they connect."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from maskcls.data.pool import over_photos

TAIL_BYTES = 4096
READERS = 8
"""Threads that read files, more than there are cores: they wait for the disk."""


def identical_groups(photos: pd.DataFrame) -> dict[str, str]:
    """Return for each person the first, by name, of the people whom identical photos connect with them.

    For most people that is themselves.
    """
    # Imported here, as scikit-learn is in splits.py: they are a fifth of the imports of a worker, which draws no split.
    from scipy.cluster.hierarchy import DisjointSet

    groups = DisjointSet(sorted(set(photos["person"])))
    for persons in identical_photos(photos):
        for one, other in pairwise(persons):  # a chain through all of them joins them
            groups.merge(one, other)
    return {person: min(group) for group in groups.subsets() for person in group}


def identical_photos(photos: pd.DataFrame) -> list[set[str]]:
    """Return, for each content that stands under several people, those people.

    Only files of equal size are read, first their ends (the last bytes of a JPEG differ in most cases), then the whole
    of those that still agree.
    """
    candidates = _shared(photos, photos["size_bytes"])
    for size in (TAIL_BYTES, None):  # None: the whole file
        if candidates.empty:
            return []
        files = candidates["file"].tolist()
        hashes = list(over_photos(partial(_hash, tail_bytes=size), files, threads=READERS))
        content = pd.Series(hashes, index=candidates.index)  # by the row of the photo table
        candidates = _shared(candidates, content)
    return [set(persons) for _, persons in candidates["person"].groupby(content.loc[candidates.index])]


def _shared(photos: pd.DataFrame, content: pd.Series[Any]) -> pd.DataFrame:
    """Return the rows whose content more than one person has."""
    return photos[photos.groupby(content)["person"].transform("nunique") > 1]


def _hash(file: str, tail_bytes: int | None) -> bytes:
    """Return the digest of a file's content, or of its last bytes.

    A file that can't be read is like no other: the decoder will report it.
    """
    try:
        with Path(file).open("rb") as lines:
            if tail_bytes is not None:
                lines.seek(max(0, lines.seek(0, 2) - tail_bytes))  # seek(0, 2) goes to the end and gives the size
            return hashlib.blake2b(lines.read(), digest_size=16).digest()
    except OSError:
        return os.fsencode(file)
