"""Phrases of messages and reports: lists that end in "and 5 more", counts, and the nearest of some names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def first(names: Sequence[str], limit: int, more: str = "more") -> str:
    """Return the first `limit` names in one line, as in `a, b and 5 more`; `more` may name them: `more people`."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} {more}" if rest > 0 else "")


def first_lines(lines: Sequence[str], limit: int) -> list[str]:
    """Return the first `limit` lines, indented, and then a line that counts the others."""
    rest = len(lines) - limit
    return [f"  {line}" for line in lines[:limit]] + ([f"  … and {rest:,} more."] if rest > 0 else [])


def plural(n: int, one: str, several: str | None = None) -> str:
    """Return the word for n things: `photo` for 1, else `photos`, or `several` if the plural is irregular."""
    return one if n == 1 else several or f"{one}s"


def counted(n: int, one: str, several: str | None = None) -> str:
    """Return the number and its word: `1 photo`, `1,200 photos`."""
    return f"{n:,} {plural(n, one, several)}"


def meant(word: str, names: Iterable[str]) -> str:
    """Return `Did you mean <the nearest name>?`, or an empty string if none is near."""
    close = get_close_matches(word, list(names), n=1)
    return f"Did you mean {close[0]}?" if close else ""
