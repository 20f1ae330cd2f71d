"""Corrections of labels, applied when photos are read. The files themselves are not changed.

A CSV file with one correction per row, columns in any order:

    what    `swap` (exchange a person's incorrect_mask and normal), `gender`, `age`, or `mask` (of one photo)
    path    whose: train.csv's path, or a table's person; or
    id      train.csv's id, if only one person has it (003397 is two people: give the path)
            (both are found as `names.match` compares them, so that 000020 is also 20, if only one person has that)
    value   gender: male, female; age: years, or `under 30`, `30 to 59`, `over 59`, which moves an age outside of the
            group to its nearest year; mask: worn, incorrect, not worn; swap: nothing
    file    mask only: the photo's name without its extension, as incorrect_mask; or, with its folders, its key
    was     optional: the correction applies only where the label was this (a value as above)
    judged  optional: `accepted`, or `rejected`, which is not applied: somebody looked, and the label is right
    teams   optional: how many of the contest's teams made it; it says how far to trust it

`corrections_published.csv` holds the corrections that the contest's teams published. Applied by default are those that
at least 11 of about 38 lists have, and the contest project's own. The rest are kept as leads: to apply all, copy the
file and name the copy. They name people by the contest's ids alone, which other data may use for other people, so they
are applied only to the contest's data (`is_contest`). A user's own file is always applied.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from maskcls.data.layouts.contents import MAX_AGE
from maskcls.data.names import match
from maskcls.data.tables import Row, read_table
from maskcls.errors import CallError, DataError
from maskcls.files import expanded
from maskcls.labels import AGE_CUTS, AGES, GENDERS, MASKS, UNKNOWN, age_group
from maskcls.text import counted, first, first_lines

log = logging.getLogger("maskcls")

PUBLISHED = Path(__file__).with_name("corrections_published.csv")
MIN_TEAMS = 11
OWN_SOURCE = "original project"

WHAT = ("swap", "gender", "age", "mask")
COLUMNS = ("what", "path", "id", "value", "file", "was", "judged")
"""Of a file that this project writes, before columns of its own."""
ACCEPTED, REJECTED = "accepted", "rejected"
CONTEST_PEOPLE = 2000  # it has 2,700: room for a contest folder from which people were taken out
CONTEST_RACE = "Asian"
CONTEST_IDS = 0.9  # share of the published corrections' ids that must be there
NAMED = 20  # people, or lines, that a message names at most


@dataclass(frozen=True)
class Correction:
    """One row of the CSV file, checked; `line` is where it stands."""

    line: int
    what: str
    path: str = ""
    id: str = ""
    value: str = ""
    file: str = ""
    was: str = ""
    judged: str = ""

    @property
    def whom(self) -> str:
        """The person, as the row names them."""
        return self.path or self.id


@dataclass(frozen=True)
class Corrections:
    """The corrections to apply; `published` ones only where the photos are the contest's."""

    rows: tuple[Correction, ...] = ()
    source: str = "none"
    published: bool = False
    rejected: tuple[Correction, ...] = ()
    """Those that somebody looked at and did not accept."""

    def applicable(self, photos: pd.DataFrame) -> bool:
        """Whether there are any for these photos: the published ones are for the contest's people alone."""
        return bool(self.rows) and (not self.published or is_contest(photos, {row.id for row in self.rows}))

    def judged_people(self, photos: pd.DataFrame) -> set[str]:
        """Return the people (paths) of the photo table whom a correction names, accepted or rejected."""
        rows = (*self.rows, *self.rejected)
        people = _People(photos, rows)
        found = (people.rows(row, self.source) for row in rows)
        return {str(photos["person"].iloc[places[0]]) for places in found if places}

    def apply(self, photos: pd.DataFrame) -> pd.DataFrame:
        """Return a copy of the photo table with gender, age and mask corrected.

        The caller derives age_group and label from them. Logs how many corrections applied, and names people who
        aren't there. Raises DataError for an id that stands for two people.
        """
        if not self.rows:
            return photos
        if not self.applicable(photos):
            log.info(
                "The published corrections are not applied: these are not the contest's people. "
                "Your own: --corrections FILE."
            )
            return photos
        photos = photos.copy()  # the caller's table stays as it is
        people = _People(photos, self.rows)
        for note in people.notes:
            log.info("Corrections (%s): %s", self.source, note)
        outcomes: dict[str, list[Correction]] = {"applied": [], "absent": [], "was something else": []}
        for row in self.rows:
            rows = people.rows(row, self.source)
            outcomes[_apply(row, rows, photos, self.source) if rows is not None else "absent"].append(row)
        _log_outcomes(self.source, len(self.rows), outcomes)
        return photos


class _People:
    """Rows of the photo table by path and by id."""

    def __init__(self, photos: pd.DataFrame, corrections: Iterable[Correction]) -> None:
        # `indices` are positions; in a table numbered from 0 they are the labels that `loc` takes.
        self._by_path = {str(path): list(rows) for path, rows in photos.groupby("person").indices.items()}
        self._paths: dict[str, list[str]] = {}  # by id, which may be that of two people (003397)
        for id_, path in photos[["person_id", "person"]].drop_duplicates().itertuples(index=False):
            self._paths.setdefault(str(id_), []).append(str(path))
        corrections = list(corrections)
        by_path = match((row.path for row in corrections if row.path), self._by_path)
        by_id = match((row.id for row in corrections if not row.path), self._paths)
        self._path_of, self._id_of = by_path.found, by_id.found
        self.notes = list(filter(None, [by_path.note("the corrections' paths"), by_id.note("the corrections' ids")]))

    def rows(self, row: Correction, source: str) -> list[int] | None:
        """Return the person's rows, or None where the person isn't there."""
        if row.path:
            return self._by_path.get(self._path_of.get(row.path, row.path))
        paths = self._paths.get(self._id_of.get(row.id, row.id), [])
        if len(paths) > 1:
            raise DataError(
                f"{source}, line {row.line}: id {row.id} stands for {len(paths)} people ({', '.join(sorted(paths))}). "
                "Give the path of the one you mean instead of the id."
            )
        return self._by_path[paths[0]] if paths else None


def is_contest(photos: pd.DataFrame, ids: Iterable[str]) -> bool:
    """Whether these are the contest's people.

    They are if they are at least 2,000, all of one race (by their folders' names), with 9 of 10 of the ids. Ids alone
    would not be enough: 000020 is somebody in many a data set.
    """
    wanted = set(ids)
    people = photos.drop_duplicates("person")
    present = len(match(wanted, people["person_id"]).found) / max(1, len(wanted))
    return len(people) >= CONTEST_PEOPLE and present >= CONTEST_IDS and bool((people["race"] == CONTEST_RACE).all())


def _apply(row: Correction, rows: list[int], photos: pd.DataFrame, source: str) -> str:
    """Change one person's rows of the table; return the outcome's name."""
    if row.what == "swap":
        swapped = {0: 0, 1: 2, 2: 1, UNKNOWN: UNKNOWN}  # incorrect <-> not worn
        photos.loc[rows, "mask"] = photos.loc[rows, "mask"].map(swapped)
        return "applied"
    if row.what == "mask":
        rows = _of_file(row, rows, photos, source)
        if not rows:
            return "absent"
    # The first stands for all: of a mask there is one row, and gender and age are the person's.
    if row.was and not _is(row.what, row.was, photos.iloc[rows[0]]):
        return "was something else"
    if row.what == "age":
        _correct_age(row.value, rows, photos)
    else:
        photos.loc[rows, row.what] = (GENDERS if row.what == "gender" else MASKS).index(row.value)
    return "applied"


def _of_file(row: Correction, rows: list[int], photos: pd.DataFrame, source: str) -> list[int]:
    """Return the row of the photo that a correction names; none where it isn't there."""
    keys = {i: str(photos.at[i, "key"]).lower() for i in rows}
    whole = [i for i, key in keys.items() if key == row.file]
    found = whole or [i for i, key in keys.items() if Path(key).stem == row.file]
    if len(found) > 1:
        named = ", ".join(str(photos.at[i, "key"]) for i in found[:2])
        raise DataError(
            f"{source}, line {row.line}: {row.whom} has {len(found)} photos that are called {row.file} ({named}). "
            "Give the one you mean with its folders."
        )
    return found


def _is(what: str, text: str, photo: pd.Series[Any]) -> bool:
    """Whether a photo's label is what a correction says that it was."""
    if what == "age":
        group = photo["age_group"] if pd.isna(photo["age"]) else age_group(photo["age"])
        return bool(group == AGES.index(text) if text in AGES else photo["age"] == int(text))
    return bool(photo[what] == (GENDERS if what == "gender" else MASKS).index(text))


def _correct_age(value: str, rows: list[int], photos: pd.DataFrame) -> None:
    """Set the age in years or, where only an age group is given, move it into that; one that is unknown stays so."""
    if value not in AGES:
        photos.loc[rows, "age"] = int(value)
        return
    group, starts = AGES.index(value), (1, *AGE_CUTS, MAX_AGE + 1)
    photos.loc[rows, "age"] = photos.loc[rows, "age"].clip(starts[group], starts[group + 1] - 1)  # nan stays nan
    photos.loc[rows, "age_group"] = group


def _log_outcomes(source: str, total: int, outcomes: Mapping[str, list[Correction]]) -> None:
    def named(rows: list[Correction]) -> str:
        whom = [f"{row.whom}{'/' + row.file if row.file else ''}" for row in rows]
        return first(whom, NAMED)

    log.info("Corrections (%s): %d of %d applied.", source, len(outcomes["applied"]), total)
    if outcomes["absent"]:
        log.warning(
            "Corrections (%s): nobody here for %d of them: %s.",
            source,
            len(outcomes["absent"]),
            named(outcomes["absent"]),
        )
    if outcomes["was something else"]:
        others = outcomes["was something else"]
        log.warning(
            "Corrections (%s): %d of them expect another label than there is: %s.", source, len(others), named(others)
        )


def read_corrections(which: str) -> Corrections:
    """Return the corrections to apply: `published`, `none`, or those of a CSV file.

    Raises CallError for a file that isn't there, DataError listing the lines that can't be understood.
    """
    if which == "none":
        return Corrections()
    if which == "published":
        table = _read(PUBLISHED)
        rows = [_checked(line, row) for line, row in table]
        trusted = [_trusted(row) for _, row in table]
        return Corrections(tuple(row for row, trust in zip(rows, trusted, strict=True) if trust), which, published=True)
    file = expanded(which)
    if not file.is_file():
        raise CallError(f"--corrections {which}: there is no such file. Expected published, none, or a CSV file.")
    good, bad = [], []
    for line, row in _read(file):
        try:
            good.append(_checked(line, row))
        except DataError as error:
            bad.append(f"line {line}: {error}")
    if bad:
        heading = f"{file} has {counted(len(bad), 'correction')} that can't be understood:"
        raise DataError("\n".join([heading, *first_lines(bad, NAMED)]))
    rejected = tuple(row for row in good if row.judged == REJECTED)
    return Corrections(tuple(row for row in good if row.judged != REJECTED), which, rejected=rejected)


def _trusted(row: Mapping[str, str]) -> bool:
    return int(row["teams"]) >= MIN_TEAMS or row["source"] == OWN_SOURCE


def _read(file: Path) -> list[Row]:
    table = read_table(file)
    if table.note:
        log.info(table.note)
    if "what" not in table.columns or not {"path", "id"} & set(table.columns):
        raise DataError(
            f"{file} has the columns {', '.join(table.columns) or 'nothing'}. Expected what, value, and path or id. "
            "Name the columns in its first line."
        )
    return table.rows


def _checked(line: int, row: Mapping[str, str]) -> Correction:
    """Return the row as a correction. Raises DataError saying what is wrong with it."""
    what, value, was, file, judged = (row.get(name, "") for name in ("what", "value", "was", "file", "judged"))
    file = file.lower() if "/" in file else Path(file).stem.lower()
    if what not in WHAT:
        raise DataError(f"what is {what!r}. Expected {', '.join(WHAT)}.")
    if not row.get("path") and not row.get("id"):
        raise DataError("neither path nor id is given. Expected one of them.")
    if what == "mask" and not file:
        raise DataError("file is empty. Expected the photo's name without its extension, as incorrect_mask.")
    if what == "swap" and (value or was):
        raise DataError(f"a swap has no value, but got {value or was!r}.")
    if judged not in ("", ACCEPTED, REJECTED):
        raise DataError(f"judged is {judged!r}. Expected {ACCEPTED}, {REJECTED} or nothing.")
    for name, text in (("value", value), ("was", was)):
        if what != "swap" and (text or name == "value"):
            _check_value(what, name, text)
    file = file if what == "mask" else ""
    return Correction(line, what, row.get("path", ""), row.get("id", ""), value, file, was, judged)


def _check_value(what: str, name: str, text: str) -> None:
    if what == "age":
        if text in AGES or (re.fullmatch(r"\d+", text) and 1 <= int(text) <= MAX_AGE):
            return
        raise DataError(f"{name} is {text!r}. Expected an age of 1 to {MAX_AGE} years, or {', '.join(AGES)}.")
    names = GENDERS if what == "gender" else MASKS
    if text not in names:
        raise DataError(f"{name} is {text!r}. Expected {', '.join(names)}.")
