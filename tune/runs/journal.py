"""Whether a run's journal still holds what it held: search.json notes how far it had come whenever it is written."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from maskcls.files import FileKind, parse_object
from maskcls.text import counted
from tune.runs.record import JournalMark

JOURNAL_FILE = FileKind(
    "Optuna's journal, one JSON object per line",
    "Restore it from a backup, or make it again with: maskcls runs repair {folder}",
    most_bytes=1 << 36,
)


def noted(before: JournalMark | None, journal: Path) -> JournalMark | None:
    """Return how far the journal has come, for the record; `before` where it no longer begins with what that notes.

    So a damaged journal never passes for a whole one because something else was written into the record.
    """
    if not journal.is_file():
        return before
    content = _whole_lines(journal)
    if before is not None and not _begins_as(content, before):
        return before
    return JournalMark(lines=content.count(b"\n"), n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def damage(journal: Path, before: JournalMark | None) -> str:
    """Return what is wrong with the journal, as the rest of a sentence that begins with its name; "" if nothing is.

    An incomplete last line is not damage: its writer may be at work, and the next driver cuts it off.

    Args:
        before: what the record notes of it; None in runs that were begun before records did so.
    """
    held = "" if before is None else f"search.json notes that it held {counted(before.lines, 'line')}"
    if not journal.exists():
        return f"is missing, and {held}" if held else ""
    if not stat.S_ISREG(journal.stat().st_mode):
        return "is no regular file"
    content = _whole_lines(journal)
    number = 0 if _looks_whole(content) else first_bad_line(content)
    if number:
        return f"is damaged: line {number} is no record of Optuna's"
    if before is None:
        return ""
    if len(content) < before.n_bytes:
        left = content.count(b"\n")
        return f"has {counted(left, 'whole line')} left, and {held}"
    if not _begins_as(content, before):
        return f"is not the one that search.json notes: its first {counted(before.lines, 'line')} are others"
    return ""


def sound_start(journal: Path) -> bytes:
    """Return the journal's lines before the first that is no record; none where it cannot be read."""
    if not journal.is_file():
        return b""
    content = _whole_lines(journal)
    number = first_bad_line(content)
    return content if not number else b"".join(content.splitlines(keepends=True)[: number - 1])


def first_bad_line(content: bytes) -> int:
    """Return the number, from 1, of the first line that is no record of Optuna's journal; 0 if all are."""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            record = parse_object(line)
        except ValueError:
            return number
        if not isinstance(record.get("op_code"), int):
            return number
    return 0


def _looks_whole(content: bytes) -> bool:
    """Whether every line has the ends of a record; Optuna reads the whole, so that nothing is parsed twice."""
    return all(line.startswith(b"{") and line.endswith(b"}") for line in content.split(b"\n")[:-1])


def _begins_as(content: bytes, before: JournalMark) -> bool:
    return hashlib.sha256(content[: before.n_bytes]).hexdigest() == before.sha256


def _whole_lines(journal: Path) -> bytes:
    content = JOURNAL_FILE.read_bytes(journal)
    return content[: content.rfind(b"\n") + 1]
