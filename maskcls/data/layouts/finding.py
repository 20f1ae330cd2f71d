"""Files that a table names, found under the names that the disk has, whatever Unicode form or slash the table uses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from maskcls.data.names import match
from maskcls.errors import DataError
from maskcls.files import unreadable
from maskcls.text import counted, plural, shown


@dataclass(frozen=True)
class FoundFiles:
    """For each cell the file, or None where there is none."""

    files: tuple[Path | None, ...]
    by_number: Mapping[str, str]
    """Cells that differ from the file's name in leading zeros, and that name."""

    @property
    def note(self) -> str:
        """A sentence on what was matched by number, naming the first; empty if nothing was."""
        if not self.by_number:
            return ""
        cell, name = next(iter(self.by_number.items()))
        n = len(self.by_number)
        return (
            f"{counted(n, 'file')} {plural(n, 'differs', 'differ')} from {plural(n, 'its cell', 'their cells')} in "
            f"leading zeros: matched by number, as {shown(cell)} with {shown(name)}."
        )


def find_files(base: Path, cells: Sequence[str]) -> FoundFiles:
    """Find the files of a table's cells, whose paths are relative to `base`: as they are, else as `names.match` does.

    A backslash is taken for a slash where there is no file of that very name. Raises DataError for a folder that
    cannot be read.
    """
    files: dict[str, Path] = {}
    missing: dict[str, dict[str, list[str]]] = {}  # folder, as the cells have it -> file name -> cells
    for cell in dict.fromkeys(cells):
        spellings = (base / cell, base / cell.replace("\\", "/"))
        file = next((file for file in spellings if os.path.isfile(file)), None)  # noqa: PTH113 - bears any text
        if file is not None:
            files[cell] = _without_detours(file)
        elif "\0" not in cell:
            folder, slash, name = cell.replace("\\", "/").rpartition("/")
            missing.setdefault(folder or slash, {}).setdefault(name, []).append(cell)

    @cache
    def folder_of(path: str) -> Path | None:
        """The folder under the names that the disk has."""
        if not path or (base / path).is_dir():
            return base / path
        above, _, name = path.rpartition("/")
        parent = folder_of(above)
        own = match([name], names_in(parent)).found.get(name) if parent else None
        return parent / own if parent and own and (parent / own).is_dir() else None

    by_number: dict[str, str] = {}
    for place, wanted in missing.items():
        there = folder_of(place)
        matches = match(wanted, names_in(there) if there else ())
        for name, found in matches.found.items():
            if there and (there / found).is_file():
                files |= dict.fromkeys(wanted[name], there / found)
                by_number |= dict.fromkeys(wanted[name], found) if name in matches.by_number else {}
    return FoundFiles(tuple(files.get(cell) for cell in cells), by_number)


def _without_detours(file: Path) -> Path:
    """Return the path without `..`, where that is the same file: a link may lead elsewhere."""
    short = Path(os.path.normpath(file)) if ".." in file.parts else file
    return short if short is file or (short.exists() and short.samefile(file)) else file


def names_in(folder: Path) -> tuple[str, ...]:
    """Return the names in a folder, sorted; none where there is no folder. Raises DataError if it can't be read."""
    try:
        return tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - a Path for each photo would double the time
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise DataError(unreadable(folder, error)) from None
