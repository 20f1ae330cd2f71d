"""What --data names: a photo table, the contest's folder, or folders of labels; each is read by its adapter."""

from __future__ import annotations

from pathlib import Path

from maskcls.data import contest_folder
from maskcls.data.layouts import class_folders, table
from maskcls.data.layouts.contents import Contents
from maskcls.data.layouts.people import check_people_from

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
        return table.scan(beside[0], people_from)
    if not is_contest and not (data / "train").exists() and class_folders.is_one(data):
        return class_folders.scan(data, people_from)
    contents = contest_folder.scan(data)
    if beside and not contents.problems:
        contents.notes.append(
            f"{contest_folder.TABLE} is read, and {beside[0].name} beside it is not. To read that: --data {beside[0]}."
        )
    return contents


def root_of(data: Path) -> Path:
    """Return the folder that the files of the data lie in: of a table its folder."""
    return data if data.is_dir() else data.parent
