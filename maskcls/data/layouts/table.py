"""The adapter of a photo table: photos.csv or photos.parquet, one row per photo, under names of columns in any case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from maskcls.data import contest_folder
from maskcls.data.layouts.contents import Contents
from maskcls.data.layouts.people import with_people
from maskcls.data.layouts.rows import COLUMNS, OWN, PhotoRow, add_rows, further
from maskcls.data.layouts.words import plain
from maskcls.data.problems import Problem
from maskcls.data.tables import Table, read_table
from maskcls.errors import DataError
from maskcls.text import meant, shown

NAMES = ("photos.csv", "photos.parquet")
"""A folder that holds one of these is read by it."""
SUFFIXES = (".csv", ".parquet")


def scan(table: Path, people_from: str | None = None) -> Contents:
    """Read a photo table and look at its files; all problems in one pass, and no photo is opened.

    Args:
        people_from: whom a row shows that does not say it: one of `people.PEOPLE_FROM`, or None: nobody knows.
    """
    contents = Contents(table.parent, shown(table.name))
    try:
        found = with_plain_columns(read_table(table))
        _check_columns(found, contents)
        if contents.problems:
            return contents
        rows = [PhotoRow(found.place(line), {**dict.fromkeys(COLUMNS, ""), **cells}) for line, cells in found.rows]
        contents.notes += filter(None, [found.note])
        add_rows(contents, with_people(rows, people_from, contents))
    except DataError as error:
        contents.problems.append(Problem("table", table.name, str(error)))
    return contents


def with_plain_columns(table: Table) -> Table:
    """Return the table with the names that columns of a photo table have, whatever their case and spaces.

    Raises DataError where two columns have one name then.
    """
    known = {plain(name): name for name in (*COLUMNS, *OWN)}
    names: dict[str, str] = {}
    for name in table.columns:
        names[name] = known.get(plain(name), name)
        others = [other for other, new in names.items() if new == names[name] and other != name]
        if others:
            raise DataError(
                f"{shown(table.file)} has the columns {shown(others[0])} and {shown(name)}, which are both "
                f"{names[name]}. Rename or remove one of them."
            )
    rows = [(line, {names[name]: cell for name, cell in cells.items()}) for line, cells in table.rows]
    return replace(table, columns=tuple(names.values()), rows=rows)


def _check_columns(found: Table, contents: Contents) -> None:
    """Add a problem where no photos are named, and notes on columns that are not what they seem to be."""
    lacking = found.lacking(["file"])
    if not found.columns:
        message = f"{shown(found.file)} is empty. Expected a heading {','.join(COLUMNS)} and one row per photo."
        contents.problems.append(Problem("table", contents.source, message))
    elif lacking:
        hint = meant("file", found.columns)
        if Path(contest_folder.TABLE).parts == found.file.parts[-2:]:
            hint = f"Did you mean --data {shown(found.file.parents[1])}?"
        message = " ".join(filter(None, [f"{shown(found.file)} {lacking}", hint]))
        contents.problems.append(Problem("column", contents.source, message))
    elif not found.rows:
        message = f"{shown(found.file)} has a heading, but no rows. Expected one row per photo. Copy it again."
        contents.problems.append(Problem("table", contents.source, message))
    contents.columns = tuple(further(found.columns))
    absent = [name for name in COLUMNS if name not in found.columns]
    for name in contents.columns:
        near = meant(plain(name).replace(" ", "_"), absent)
        if near:
            contents.notes.append(f"Column {shown(name)} of {contents.source} says nothing about the labels. {near}")
    contents.notes += [
        f"Column {shown(name)} is not read: that name has another meaning in a run's own table."
        for name in found.columns
        if name not in (*COLUMNS, *OWN, *contents.columns)
    ]
