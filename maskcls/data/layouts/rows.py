"""Photos given as rows of cells: what each row says is checked, the files are found, and the people are put together.

Gender and age belong to the person: what one row says holds for all photos of the same person, and rows that
contradict each other are a problem. An empty cell is a gap.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskcls.data.decoding.kinds import READ_SUFFIXES, is_photo
from maskcls.data.layouts.contents import MAX_AGE, Contents, Person, Photo, years
from maskcls.data.layouts.finding import find_files
from maskcls.data.layouts.words import NAMES, expected, index_of, written
from maskcls.data.names import normal, number
from maskcls.data.problems import Problem
from maskcls.labels import UNKNOWN, age_group
from maskcls.text import counted, shown

COLUMNS = ("file", "person", "mask", "gender", "age", "age_group")
"""Columns of a photo table that are read, apart from OWN."""
OWN = ("key", "person_id", "race")
"""Further columns with a meaning: what a photo is called, and two of the contest's."""
MADE = ("label", "size_bytes", "mtime_ns", "extra", "judged")
"""Columns that the photo table gets, which follow from others or from the files; one of such a name is not read."""


def further(columns: Iterable[str]) -> list[str]:
    """Return the columns that have no meaning here, and are kept for grouping. With a colon they are a comparison's."""
    return [name for name in columns if name not in (*COLUMNS, *OWN, *MADE) and ":" not in name]


@dataclass(frozen=True)
class PhotoRow:
    """One photo's cells by column; a column that there is not is empty."""

    place: str
    """Where the row stands, as in `photos.csv, line 7`."""
    cells: Mapping[str, str]

    @property
    def who(self) -> str:
        """The place and the file, for messages."""
        return f"{self.place} ({shown(self.cells['file'])})" if self.cells["file"] else self.place


@dataclass(frozen=True)
class _Labels:
    """What a valid row says."""

    mask: int
    gender: int
    age: int | None
    age_group: int


@dataclass(frozen=True)
class _Row:
    """A row whose photo is there."""

    row: PhotoRow
    file: Path
    size_bytes: int
    mtime_ns: int
    labels: _Labels | None
    """None where they are invalid."""

    @property
    def key(self) -> str:
        return key_of(self.row.cells)

    @property
    def person(self) -> str:
        return normal(self.row.cells["person"])


def key_of(cells: Mapping[str, str]) -> str:
    """Return what a photo is called: its cell `key` or, where that is empty, its path."""
    return normal(cells.get("key", "") or os.path.normpath(cells["file"].replace("\\", "/")))


def add_rows(contents: Contents, rows: Sequence[PhotoRow]) -> None:
    """Check the rows and add their photos, or what is wrong with them, to the contents."""
    contents.rows = len(rows)
    contents.paths = {normal(row.cells["person"]) for row in rows} - {""}
    there = _without_duplicates(list(_with_files(rows, contents)), contents)
    wrong = _contradictory(there, contents)
    people = _people([one for one in there if one.labels and one.person not in wrong], contents)
    for one in there:
        if one.labels is None or one.person not in people:
            contents.unlabelled.append(str(one.file))
            continue
        more = {name: one.row.cells.get(name, "") for name in contents.columns}
        contents.photos.append(
            Photo(people[one.person], str(one.file), one.key, one.labels.mask, one.size_bytes, one.mtime_ns, more)
        )


def _with_files(rows: Sequence[PhotoRow], contents: Contents) -> Iterator[_Row]:
    """Yield the rows whose photos are there, each with its labels; add a problem for each thing that is wrong."""
    found = find_files(contents.root, [row.cells["file"] for row in rows])
    contents.notes += filter(None, [found.note])
    for row, file in zip(rows, found.files, strict=True):
        labels = _labels(row, contents)
        message = _wrong_file(row.cells["file"], file)
        if message:
            contents.problems.append(Problem("photo", row.place, f"{row.who}: {message}"))
        elif file is not None:
            status = file.stat()
            yield _Row(row, file.absolute(), status.st_size, status.st_mtime_ns, labels)


def _wrong_file(cell: str, file: Path | None) -> str:
    """Return what is wrong with a file, to follow the row; empty if nothing is."""
    if os.path.normpath(cell) in (".", "..", "/"):
        return f"file is {cell!r}. Expected a photo's path, relative to the table. Correct the row."
    if file is None:
        return (
            "there is no such file. Expected a photo's path, relative to the table. Copy it there, or correct the row."
        )
    if file.suffix.lower() not in READ_SUFFIXES and not is_photo(file):
        return "the file is not a photo. Replace it by one, or remove the row."
    return "" if file.stat().st_size else "the photo is empty (0 bytes). Copy it again."


def _labels(row: PhotoRow, contents: Contents) -> _Labels | None:
    """Return what a row says, or None where something is wrong with it, for which problems are added."""
    wrong: list[tuple[str, str]] = []
    found: dict[str, int] = {}
    for column in NAMES:
        text = row.cells.get(column, "")
        index = index_of(column, text)
        if index is None:
            kind = "age" if column == "age_group" else column
            wrong.append((kind, f"{column} is {shown(text)!r}. {expected(column, text)} Correct the cell."))
        found[column] = UNKNOWN if index is None else index
    text = row.cells.get("age", "")
    age = years(text)
    if text and age is None:
        wrong.append(("age", f"age is {shown(text)!r}. Expected a number of years from 1 to {MAX_AGE}. Correct it."))
    elif age is not None and found["age_group"] not in (UNKNOWN, age_group(age)):
        group, said = written("age_group", age_group(age)), written("age_group", found["age_group"])
        wrong.append(("age", f"age is {age}, which is {group}, but age_group is {said}. Correct one of them."))
    if not row.cells["person"]:
        wrong.append(("person", "person is empty. Expected who is on the photo. Fill the cell, or give --people-from."))
    contents.problems += [Problem(kind, row.place, f"{row.who}: {message}") for kind, message in wrong]
    if wrong:
        return None
    return _Labels(found["mask"], found["gender"], age, found["age_group"] if age is None else age_group(age))


def _without_duplicates(rows: Sequence[_Row], contents: Contents) -> list[_Row]:
    """Return the rows without those of one photo or of one key; the first of rows that say the same stays."""
    for what in ("file", "key"):
        groups: dict[object, list[_Row]] = {}
        for one in rows:
            groups.setdefault(getattr(one, what), []).append(one)
        for first, *others in groups.values():
            for one in others:
                message = f"the photo stands in {first.row.place} too. Expected one row per photo. Remove one."
                if what == "key":
                    message = f"key is that of {first.row.who} too. Expected one of its own. Correct it."
                contents.problems.append(Problem("duplicate path", one.row.place, f"{one.row.who}: {message}"))
        rows = [group[0] for group in groups.values() if all(one.row.cells == group[0].row.cells for one in group)]
    return list(rows)


def _contradictory(rows: Sequence[_Row], contents: Contents) -> set[str]:
    """Return the people whose rows contradict each other, or whose names do; adds a problem for each."""
    wrong: set[str] = set()
    first: dict[tuple[str, str], tuple[object, _Row]] = {}  # (person, what) -> the first value, and where
    spelled: dict[str, _Row] = {}
    for one in rows:
        if not one.person:
            continue
        other = spelled.setdefault(number(one.person) or one.person, one)
        if other.person != one.person and one.person not in wrong:
            message = (
                f"person is {shown(one.person)}, and {shown(other.person)} in {other.row.place}: they differ in "
                "leading zeros. Expected one spelling of a person. Correct one of them."
            )
            contents.problems.append(Problem("person", one.row.place, f"{one.row.who}: {message}"))
            wrong |= {one.person, other.person}
        for kind, word, value in _of_the_person(one.labels):
            known, where = first.setdefault((one.person, kind), (value, one))
            if known != value and one.person not in wrong:
                was = {kind: word for kind, word, _ in _of_the_person(where.labels)}[kind]
                message = (
                    f"{shown(one.person)} is {word} here, but {was} in {where.row.place}. "
                    "Expected one gender and one age per person. Correct one of them."
                )
                contents.problems.append(Problem(kind.split()[0], one.row.place, f"{one.row.who}: {message}"))
                wrong.add(one.person)
    return wrong


def _of_the_person(labels: _Labels | None) -> list[tuple[str, str, int]]:
    """Return what a row says of the person: (kind of problem, words, value); what is not known is left out."""
    if labels is None:
        return []
    found = [("gender", written("gender", labels.gender), labels.gender)]
    if labels.age is not None:
        found.append(("age in years", f"{labels.age} years old", labels.age))
    found.append(("age group", written("age_group", labels.age_group), labels.age_group))
    return [one for one in found if one[2] != UNKNOWN]


def _people(rows: Sequence[_Row], contents: Contents) -> dict[str, Person]:
    """Return the people of valid rows, with what any of their rows says of them."""
    of_person: dict[str, list[_Row]] = {}
    for one in rows:
        of_person.setdefault(one.person, []).append(one)
    people: dict[str, Person] = {}
    filled = 0
    for path, theirs in of_person.items():
        labels = [one.labels for one in theirs if one.labels]
        gender = max(one.gender for one in labels)
        age = max((one.age for one in labels if one.age is not None), default=None)
        group = max(one.age_group for one in labels)
        cells = [one.row.cells for one in theirs]
        own = {name: next((cell[name] for cell in cells if cell.get(name)), "") for name in ("person_id", "race")}
        people[path] = Person(own["person_id"] or path, gender, own["race"], age, path, group)
        filled += sum((one.gender, one.age_group) != (gender, group) for one in labels)
    if filled:
        contents.notes.append(
            f"{counted(filled, 'photo')} without gender or age {'has' if filled == 1 else 'have'} them from other "
            "photos of the same person."
        )
    return people
