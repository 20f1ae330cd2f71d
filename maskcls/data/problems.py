"""Problem: one thing wrong with a folder of photos, for `maskcls.check` and for commands that refuse the folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maskcls.errors import FolderError
from maskcls.text import command, first_lines, plural

KINDS = (
    "folder",  # nothing can be read: the first four kinds hide all others
    "table",
    "column",
    "people",  # of no photo it is known whom it shows
    "duplicate path",  # a person whose labels or photos are missing or invalid
    "person folder",
    "person",
    "gender",
    "age",
    "mask",
    "class",  # nobody in a class
    "missing photos",  # single photos
    "photo name",
    "photo",
)
"""Most important first."""

FATAL = KINDS[:4]
"""Kinds that leave nothing to train on, so --skip-bad does not help."""

LISTED = 20
"""How many problems a refusal lists."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    `message` says everything: what, where, what was expected, what to do. `where` is a file (and line of a table),
    relative to the folder.
    """

    kind: str
    where: str
    message: str


def ordered(problems: Iterable[Problem]) -> list[Problem]:
    """Sort by importance; problems of one kind stay in the order of reading."""
    return sorted(problems, key=lambda problem: KINDS.index(problem.kind))


def refusal(problems: Iterable[Problem], data: Path) -> FolderError:
    """Return the error that lists the most important problems and says how to see all of them."""
    listed = ordered(problems)
    if len(listed) == 1:
        return FolderError(listed[0].message)
    lines = [f"{data} has {len(listed):,} problems:", *first_lines([problem.message for problem in listed], LISTED)]
    lines.append(f"`{command('maskcls.check', '--data', data)}` lists all of them. {remedy(listed)}")
    return FolderError("\n".join(lines))


def remedy(problems: Iterable[Problem]) -> str:
    """Return what to do about the problems, and whether --skip-bad would help."""
    # --skip-bad leaves people and photos out, which mends no folder and fills no class.
    found = list(problems)
    them = plural(len(found), "it", "them")
    if any(problem.kind in (*FATAL, "class") for problem in found):
        return f"Mend {them} before training."
    return f"Mend {them}, or leave those people and photos out of the training with --skip-bad."
