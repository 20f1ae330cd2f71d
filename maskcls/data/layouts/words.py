"""Words of a photo table for mask, gender and age group, in any case and with spaces, hyphens or underscores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from maskcls.labels import AGES, GENDERS, MASKS, UNKNOWN
from maskcls.text import meant

NAMES: Mapping[str, Sequence[str]] = {"mask": MASKS, "gender": GENDERS, "age_group": AGES}
"""By column; a label's place in its list is its index."""
_ALSO = {"age_group": {"30 59": 1}}
"""Further words, in the form of `plain`."""


def plain(text: str) -> str:
    """Return a word in the form in which words are compared: small letters, one space for each gap."""
    return re.sub(r"[\s_-]+", " ", text).strip().lower()


def index_of(column: str, text: str) -> int | None:
    """Return the index of a word of the column; UNKNOWN for an empty cell, None if there is no such word."""
    word = plain(text)
    if not word:
        return UNKNOWN
    names = NAMES[column]
    return names.index(word) if word in names else _ALSO.get(column, {}).get(word)


def written(column: str, index: int) -> str:
    """Return the word that a table has for an index; empty for UNKNOWN."""
    return "" if index == UNKNOWN else NAMES[column][index].replace(" ", "_")


def expected(column: str, text: str = "") -> str:
    """Return which words a column may have, and the nearest one to what stood there: the end of a message."""
    words = [written(column, index) for index in range(len(NAMES[column]))]
    return " ".join(filter(None, [f"Expected {', '.join(words[:-1])} or {words[-1]}.", meant(_near(text), words)]))


def _near(text: str) -> str:
    return plain(text).replace(" ", "_")
