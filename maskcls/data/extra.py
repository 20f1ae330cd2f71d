"""Extra photos, for training alone: external data whose people never stand in validation or holdout."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

from maskcls.data.identical import identical_photos
from maskcls.data.photos import read_photos
from maskcls.data.splits import EXTRA
from maskcls.errors import DataError
from maskcls.text import counted, first, shown

log = logging.getLogger("maskcls")

KEYS = "extra//"
"""How the keys of extra photos begin; no path that a table names does."""
NAMED = 5


def with_extra(
    photos: pd.DataFrame, table: Path, *, skip_bad: bool = False, people_from: str | None = None
) -> pd.DataFrame:
    """Return the photo table with the rows of a table of extra photos behind its own; the column EXTRA marks them.

    No corrections are applied to the extra photos.

    Args:
        table: what `layouts.scan.scan` reads, with `people_from`.

    Raises DataError for problems of the extra photos, and where an extra person, or a photo's content, is among the
    data as well.
    """
    more = read_photos(table, skip_bad=skip_bad, people_from=people_from)
    both = sorted(set(photos["person"]) & set(more["person"]))
    if both:
        raise DataError(
            f"--extra {shown(table)} has {counted(len(both), 'person', 'people')} of the data: "
            f"{first(list(map(shown, both)), NAMED)}. Extra people are trained on, so a score on the same people would "
            "be too good. Leave them out, or rename them if they are other people."
        )
    # In order, and every column of either: of text, where one has none, the cell is empty.
    added = more.assign(key=KEYS + more["key"], **{EXTRA: True})
    joined = pd.concat([photos.assign(**{EXTRA: False}), added], ignore_index=True)
    texts = [name for name in joined.columns.astype(str) if joined[name].dtype != float and joined[name].isna().any()]
    joined[texts] = joined[texts].fillna("")
    of_data = set(photos["person"])
    shared = [persons for persons in identical_photos(joined) if persons & of_data and persons - of_data]
    if shared:
        pairs = [f"{min(persons - of_data)} and {min(persons & of_data)}" for persons in shared]
        raise DataError(
            f"--extra {shown(table)} has {counted(len(shared), 'photo')} of the data, byte for byte, under other "
            f"people: {first(list(map(shown, pairs)), NAMED)}. A score on a photo that was trained on would be too "
            "good. Leave these photos out."
        )
    log.info(
        "--extra: %s of %s, for training alone.",
        counted(len(more), "photo"),
        counted(int(more["person"].nunique()), "person", "people"),
    )
    return joined


def with_extra_rows(photos: pd.DataFrame, run: pd.DataFrame) -> pd.DataFrame:
    """Return a photo table of the data alone with the extra rows of a run's table, if that has any, behind its own."""
    return pd.concat([photos, run[run[EXTRA]]], ignore_index=True) if EXTRA in run else photos
