"""What --data names: a photo table, the contest's folder, or folders of labels; each is read by its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskcls.data import contest_folder
from maskcls.data.layouts import class_folders, table
from maskcls.data.layouts.contents import Contents
from maskcls.data.layouts.people import check_people_from
from maskcls.text import shown

EXPECTED = "a table photos.csv or .parquet, the contest's folder, or folders <mask>/<gender>/<age_group>"


def scan(data: Path, people_from: str | None = None) -> Contents:
    """Read what `data` names; all problems in one pass, and no photo is opened.

    Args:
        people_from: whom a photo shows where nothing says it, of a table or of folders of labels: `folder` (each
            folder is one person), `none` (each photo is another person), or None: then such data is a problem.
    """
    check_people_from(people_from)
    if data.suffix.lower() in table.SUFFIXES and not data.is_dir():
        return table.scan(data, people_from)
    is_contest = (data / contest_folder.TABLE).exists()
    beside = [data / name for name in table.NAMES if (data / name).is_file()]
    if beside and not is_contest:
        return _with_note(table.scan(beside[0], people_from), beside[1:])
    if not is_contest and not (data / "train").exists() and class_folders.is_one(data):
        return class_folders.scan(data, people_from)
    return _with_note(contest_folder.scan(data), beside)


def _with_note(contents: Contents, tables: Sequence[Path]) -> Contents:
    """Return the contents, with a note on tables that lie there and are not read."""
    contents.notes += [
        f"{contents.source} is read, and {file.name} beside it is not. To read that: --data {shown(file)}."
        for file in tables
    ]
    return contents


def root_of(data: Path) -> Path:
    """Return the folder that the files of the data lie in: of a table its folder."""
    return data if data.is_dir() else data.parent
