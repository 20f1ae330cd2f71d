"""The people's table, by whose columns a report groups scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from maskcls.data.contest_folder import TABLE
from maskcls.data.dataset import FaceDataset
from maskcls.data.layouts.rows import further
from maskcls.data.names import normal
from maskcls.data.tables import read_table
from maskcls.errors import DataError
from tune.runs.folder import SearchRun

_KNOWN = ("race", "gender", "age")
"""Columns of the run's photo table that describe a person; gender and age are those after corrections."""
_NOT_GROUPS = ("id", "path")


def search_data(run: SearchRun) -> Path | None:
    """What --data of a search named; None for drawn faces."""
    data = run.record().option("data", "")
    return Path(data) if data else None


def people_table(faces: FaceDataset, data: Path | None) -> pd.DataFrame:
    """One row per person, indexed by person: what the run knows, and further columns of train.csv where it is there.

    Of a photo table the run knows all columns; of one that differs between a person's photos, the first is taken.

    Args:
        data: the folder that holds train/train.csv, or a photo table.
    """
    columns = [*_KNOWN, *further(faces.photos.columns.astype(str))]
    people = faces.photos.drop_duplicates("person").set_index("person")[columns]
    if data is None or not (data / TABLE).is_file():
        return people
    try:
        table = read_table(data / TABLE)
    except DataError:  # the run has what it needs; only further columns are lost
        return people
    if "path" not in table.columns:
        return people
    names = [name for name in table.columns if name not in (*columns, *_NOT_GROUPS)]
    rows = {normal(row["path"]): [row[name] for name in names] for _, row in table.rows}
    return people.join(pd.DataFrame.from_dict(rows, orient="index", columns=names))
