"""The facts about a folder of photos: the table, each photo's properties, and which photos are the same."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.data.corrections import Corrections, read_corrections
from maskcls.data.layouts.contents import Contents
from maskcls.data.layouts.scan import root_of, scan
from maskcls.data.near_duplicates import NearDuplicates, search
from maskcls.data.photos import tabulate
from maskcls.data.problems import Problem, ordered, refusal
from maskcls.errors import DataError
from maskcls.labels import UNKNOWN
from maskcls.reports.explore.photo_looks import Look, look_at
from maskcls.text import counted


@dataclass(frozen=True)
class Facts:
    """Everything that the exploration shows.

    Row i of `photos` is looks[i]; photos that can't be decoded are in neither, but in `problems`.
    """

    name: str
    """The folder as it was given, or what is shown instead of it."""
    rows: str
    """What the data names, in words, as in `of 40 rows in train.csv`: whether it can be used or not."""
    source: str
    """What says the labels, in words."""
    photos: pd.DataFrame
    """`read_photos`'s columns, corrected, and width_px, height_px, type (file's ending and what it is), brightness."""
    looks: list[Look]
    n_undecodable: int
    problems: list[Problem]
    """Of rows, names and photos, most important first; paths are relative to the folder."""
    notes: list[str]
    corrected: list[int]
    """Rows whose gender, age or mask state the corrections changed."""
    corrections: str
    identical_across: list[list[int]]
    """For each content that stands under several people, byte for byte: its rows."""
    identical_within: list[list[int]]
    """The same for content that only one person has, more than once."""
    near: NearDuplicates

    @property
    def people(self) -> pd.DataFrame:
        """The people who have a photo, one row each; column n_photos."""
        people = self.photos.drop_duplicates("person").set_index("person", drop=False)
        return people.assign(n_photos=self.photos.groupby("person").size())

    @property
    def persons(self) -> NDArray[np.int64]:
        """(n,): each photo's person as a number."""
        return numbered(self.photos["person"].tolist())

    @property
    def shared_ids(self) -> dict[str, list[str]]:
        """Ids that stand in several rows of train.csv -> the people's folders."""
        folders = self.people.groupby("person_id")["person"].agg(list)
        return {str(id_): sorted(paths) for id_, paths in folders.items() if len(paths) > 1}


def gather(
    data: Path,
    *,
    corrections: str = "published",
    name: str | None = None,
    people_from: str | None = None,
    progress: bool = False,
) -> Facts:
    """Read and decode every labelled photo of `data` (as of `layouts.scan.scan`) once.

    Problems of single people and photos are listed in the facts. Raises CallError and DataError as `read_corrections`
    does, and DataError for a folder that can't be read, or has no photo that can be decoded.
    """
    wanted, name = read_corrections(corrections), name or str(data)
    data = data.absolute()
    contents = scan(data, people_from)
    if not contents.photos:
        raise refusal(contents.problems, data)
    table, corrected = _tabulated(contents, wanted)
    looks = look_at(table["file"].tolist(), progress)
    errors = {row: found for row, found in enumerate(looks) if isinstance(found, DataError)}
    if len(errors) == len(table):
        raise DataError(f"None of the {len(table):,} photos of {data} can be decoded. The first: {errors[0]}")
    good = [row for row in range(len(table)) if row not in errors]
    seen = [found for found in looks if isinstance(found, Look)]
    photos = _with_looks(table.iloc[good].reset_index(drop=True), seen)
    contents_ = numbered([found.content for found in seen])
    persons = numbered(photos["person"].tolist())
    across, within = identical_rows(contents_, persons)
    return Facts(
        name=name,
        rows=_rows_text(contents),
        source=contents.source,
        photos=photos,
        looks=seen,
        n_undecodable=len(errors),
        problems=_problems(contents, {str(table["file"].iloc[row]): str(error) for row, error in errors.items()}, data),
        notes=contents.notes,
        corrected=[i for i, row in enumerate(good) if corrected[row]],
        corrections=corrections,
        identical_across=across,
        identical_within=within,
        near=search(np.stack([found.hash for found in seen]), persons, contents_),
    )


def _rows_text(contents: Contents) -> str:
    rows = f"{contents.rows:,} rows" if contents.of_people else counted(contents.rows, "photo")
    return f"of {rows} in {contents.source}"


def numbered(values: Sequence[object]) -> NDArray[np.int64]:
    """Return numbers (n,), equal for equal values, from 0 in the order of first appearance."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _tabulated(contents: Contents, corrections: Corrections) -> tuple[pd.DataFrame, list[bool]]:
    """Return the photo table with the corrections, and which of its rows they changed."""
    before, after = tabulate(contents), tabulate(contents, corrections=corrections)
    labels = ["gender", "age", "age_group", "mask"]
    # An age that is not known is nan, which equals nothing.
    return after, (before[labels].fillna(UNKNOWN) != after[labels].fillna(UNKNOWN)).any(axis=1).tolist()


def _with_looks(photos: pd.DataFrame, looks: Sequence[Look]) -> pd.DataFrame:
    endings = [Path(file).suffix.lower() for file in photos["file"]]
    return photos.assign(
        width_px=[look.width_px for look in looks],
        height_px=[look.height_px for look in looks],
        type=[f"{ending} ({look.kind})" for ending, look in zip(endings, looks, strict=True)],
        brightness=[look.brightness for look in looks],
    )


def _problems(contents: Contents, undecodable: dict[str, str], data: Path) -> list[Problem]:
    root = root_of(data)
    found = [
        *contents.problems,
        *(Problem("photo", os.path.relpath(file, root), message) for file, message in undecodable.items()),
    ]
    return [Problem(problem.kind, problem.where, problem.message.replace(f"{root}/", "")) for problem in ordered(found)]


def identical_rows(contents: NDArray[np.int64], persons: NDArray[np.int64]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the rows of each content that stands more than once: under several people, and under one."""
    repeated = {number for number, count in Counter(contents.tolist()).items() if count > 1}
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(contents.tolist()):
        if number in repeated:
            rows.setdefault(number, []).append(row)
    across = [group for group in rows.values() if len(set(persons[group].tolist())) > 1]
    return across, [group for group in rows.values() if len(set(persons[group].tolist())) == 1]
