"""What each layout of photos is read into: people, their photos, everything wrong with them, and notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maskcls.data.problems import Problem
from maskcls.labels import UNKNOWN
from maskcls.text import shown

MAX_AGE = 120
NOT_PHOTOS = ("file that is not a photo", "files that are not photos")
"""One and several files that a layout passes over."""


@dataclass(frozen=True)
class Person:
    """Somebody whose values are valid. What is not known is UNKNOWN, or None for the age."""

    id: str
    gender: int
    race: str
    age: int | None
    path: str
    """Who it is: of the contest the name of the folder; in the form in which names are compared."""
    age_group: int = UNKNOWN
    """Index into AGES where it is known without the age; an age that is known decides it."""


@dataclass(frozen=True)
class Photo:
    """A file, whom it shows and how the mask is worn (an index into MASKS, or UNKNOWN)."""

    person: Person
    file: str
    key: str
    """What the photo is called wherever its folder lies; unique in the data."""
    mask: int
    size_bytes: int
    mtime_ns: int
    more: Mapping[str, str] = field(default_factory=dict)
    """The cells of further columns."""


@dataclass
class Contents:
    """What could be read, what is wrong, and what is only worth knowing."""

    root: Path
    """The folder to which the places in messages are relative."""
    source: str
    """What says the labels, in words: a table's name, or the folders' names."""
    of_people: bool = False
    """Whether a row is a person, as in train.csv, and not a photo."""
    photos: list[Photo] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    """Photo files of people or rows that are invalid."""
    rows: int = 0
    """Of the table, valid or not."""
    paths: set[str] = field(default_factory=set)
    """Of everybody there, whether their rows are valid or not; in the form of `Person.path`."""
    columns: tuple[str, ...] = ()
    """Further columns, which every photo has in `more`."""

    def problem(self, kind: str, where: str, message: str) -> None:
        """Add a problem; `message` follows the place."""
        self.problems.append(Problem(kind, shown(where), f"{shown(where)} {message}"))


def years(text: str) -> int | None:
    """Return whole years, or None if the text is not an age."""
    try:
        found = float(text)
    except ValueError:
        return None
    return int(found) if 1 <= found <= MAX_AGE else None  # None for nan, too: it compares as false
