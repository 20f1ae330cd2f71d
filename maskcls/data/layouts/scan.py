"""What --data names: a photo table, the contest's folder, or folders of labels; each is read by its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskcls.data import contest_folder
from maskcls.data.layouts import class_folders, table
from maskcls.data.layouts.contents import Contents
from maskcls.data.layouts.people import check_people_from
from maskcls.data.problems import refusal
from maskcls.errors import NoSuchPath
from maskcls.text import shown

EXPECTED = "a table photos.csv or .parquet, the contest's folder, or folders <mask>/<gender>/<age_group>"


def scan(data: Path, people_from: str | None = None) -> Contents:
    """Read what `data` names; all problems in one pass, and no photo is opened.

    Args:
        people_from: whom a photo shows where nothing says it, of a table or of folders of labels: `folder` (each
            folder is one person), `none` (each photo is another person), or None: then such data is a problem.

    Raises NoSuchPath where `data` does not exist.
    """
    check_people_from(people_from)
    _check_exists(data)
    tables = _tables_of(data)
    if _is_contest(data):
        return _with_note(contest_folder.scan(data), tables)
    if tables:
        return _with_note(table.scan(tables[0], people_from), tables[1:])
    return class_folders.scan(data, people_from)


def check_layouts(*given: Path | None) -> None:
    """Check that all that is given is one of these, without reading it: commands have slower things to check then.

    Raises FolderError, and NoSuchPath where one does not exist.
    """
    for data in filter(None, given):
        _check_exists(data)
        problems = list(contest_folder.missing(data)) if _is_contest(data) else []
        if problems:
            raise refusal(problems, data)


def _check_exists(data: Path) -> None:
    if not data.exists():
        raise NoSuchPath(f"{shown(data)} does not exist. {contest_folder.LAYOUT} Check the path.")


def _tables_of(data: Path) -> list[Path]:
    if data.suffix.lower() in table.SUFFIXES and not data.is_dir():
        return [data]
    return [data / name for name in table.NAMES if (data / name).is_file()]


def _is_contest(data: Path) -> bool:
    """Whether it is read as the contest's folder: also if it is none of these, for then that is what is expected."""
    if (data / contest_folder.TABLE).exists():
        return True
    return not _tables_of(data) and ((data / "train").exists() or not class_folders.is_one(data))


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
