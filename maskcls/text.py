"""Phrases that messages and reports share: lists that end in "and 5 more", counts, and the nearest of some names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def first(names: Sequence[str], limit: int, more: str = "more") -> str:
    """The first `limit` names in one line, as in `a, b and 5 more`; `more` may name them, as in `more people`."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} {more}" if rest > 0 else "")


def first_lines(lines: Sequence[str], limit: int) -> list[str]:
    """The first `limit` lines, indented, and then one that counts the others."""
    rest = len(lines) - limit
    return [f"  {line}" for line in lines[:limit]] + ([f"  … and {rest:,} more."] if rest > 0 else [])


def plural(n: int, one: str, several: str | None = None) -> str:
    """The word for n things: `photo` for 1, else `photos`, or `several` where the plural is irregular."""
    return one if n == 1 else several or f"{one}s"


def counted(n: int, one: str, several: str | None = None) -> str:
    """The number and its word: `1 photo`, `1,200 photos`."""
    return f"{n:,} {plural(n, one, several)}"


def meant(word: str, names: Iterable[str]) -> str:
    """`Did you mean <the nearest name>?`, or nothing where none is near."""
    close = get_close_matches(word, list(names), n=1)
    return f"Did you mean {close[0]}?" if close else ""
