"""Names that a table gives, matched with names that are there: as they are, in one Unicode form, or by their number.

Korean names come composed (NFC) from tables and decomposed (NFD) from a Mac's disks and zips, and spreadsheets make 1
of 000001.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from maskcls.text import counted, plural, shown

# Digits without leading zeros; .0 if a table kept them as a decimal number; then -1 as in 001498-1, and a suffix.
_NUMBER = re.compile(r"0*([0-9]+?)(?:\.0+)?((?:-[0-9]+)?(?:\.[A-Za-z][A-Za-z0-9]*)?)")


@dataclass(frozen=True)
class Matches:
    """For each wanted name, if it is there, the name that is there."""

    found: Mapping[str, str]
    by_number: Mapping[str, str]
    """Those of them that differ in leading zeros."""

    def note(self, whose: str) -> str:
        """Return a sentence on what was matched by number, naming the first; empty if nothing was."""
        if not self.by_number:
            return ""
        wanted, there = next(iter(self.by_number.items()))
        return (
            f"{counted(len(self.by_number), 'name')} of {whose} {plural(len(self.by_number), 'differs', 'differ')} in "
            f"leading zeros: matched by number, as {shown(wanted)} with {shown(there)}."
        )


def match(wanted: Iterable[str], there: Iterable[str]) -> Matches:
    """Match names: as they are; else normalised, or by number, where just one name on either side is that."""
    wanted, there = list(dict.fromkeys(wanted)), list(dict.fromkeys(there))
    exact = set(there)
    found = {name: name for name in wanted if name in exact}
    found |= _unique(wanted, there, found, normal)
    by_number = _unique(wanted, there, found, number)
    return Matches(found | by_number, by_number)


def normal(name: str) -> str:
    """Return a name in the form in which names are compared: composed (NFC), without blanks at its ends."""
    return unicodedata.normalize("NFC", name).strip()


def number(name: str) -> str:
    """Return a name in the form in which numbers are compared, without leading zeros; empty if it is none."""
    found = _NUMBER.fullmatch(normal(name))
    return f"{found[1]}{found[2].lower()}" if found else ""


def _unique(
    wanted: list[str], there: list[str], found: Mapping[str, str], form: Callable[[str], str]
) -> dict[str, str]:
    """Match what is left on both sides by its form; a form that two names of one side have matches nothing."""
    taken = set(found.values())
    ours = _by_form([name for name in wanted if name not in found], form)
    theirs = _by_form([name for name in there if name not in taken], form)
    return {ours[key]: theirs[key] for key in ours if key in theirs}


def _by_form(names: list[str], form: Callable[[str], str]) -> dict[str, str]:
    """Return the names by their form, without forms that are empty or that several have."""
    forms: dict[str, str | None] = {}
    for name in names:
        key = form(name)
        forms[key] = None if key in forms else name
    return {key: name for key, name in forms.items() if key and name is not None}
