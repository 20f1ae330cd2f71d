"""Doubtful labels, by person and task, as corrections that a person may accept: the most doubtful first.

Gender and age group belong to the person, so they are judged by the mean of a person's photos; a mask state belongs to
a photo. A person's incorrect_mask and normal count as swapped if their two photos together are more probable with the
labels exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from maskcls.labels import AGES, GENDERS, MASKS
from tune.audit.confident import Doubts, doubts
from tune.audit.predictions import OutOfFold

WORN, INCORRECT, NOT_WORN = range(3)
MAX_SHOWN = 3
"""Photos of a person that a finding shows."""
BEST_SEEN = (NOT_WORN, INCORRECT, WORN)
"""Mask states, those first in which most of a face is seen."""


@dataclass(frozen=True)
class Finding:
    """One doubtful label, and the correction that is proposed."""

    what: str
    """swap, gender, age or mask, as in `maskcls.data.corrections`."""
    person: str
    score: float
    """0 to 1, one half where the proposed label is as probable as the given one; see `tune.audit.confident.Doubts`."""
    why: str
    rows: tuple[int, ...]
    """Of `OutOfFold.photos`, the photos to look at."""
    value: str = ""
    was: str = ""
    file: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about: two findings of one key exclude each other."""
        return self.what, self.person, self.file


@dataclass(frozen=True)
class Ranking:
    """The doubts about one label of everybody who has it."""

    what: str
    persons: Sequence[str]
    """n of them."""
    doubts: Doubts

    def most_doubtful(self, n: int) -> list[str]:
        """The n people whose label is most doubtful."""
        order = np.argsort(-self.doubts.score, kind="stable")
        return [self.persons[place] for place in order[:n]]


def find(predictions: OutOfFold, duplicates: Iterable[Finding] = ()) -> list[Finding]:
    """Return all doubtful labels, the most doubtful first.

    Args:
        duplicates: doubts from photos that stand twice (`tune.audit.duplicates`); of two proposals for one label, the
            more probable one stays, and both reasons.
    """
    found = [*_swaps(predictions), *_of_people(predictions, "gender"), *_of_people(predictions, "age")]
    swapped = {finding.person for finding in found if finding.what == "swap"}
    found += [one for one in _masks(predictions) if one.person not in swapped or one.was == MASKS[WORN]]
    kept: dict[tuple[str, str, str], Finding] = {}
    for one in [*found, *duplicates]:
        other = kept.get(one.key)
        kept[one.key] = one if other is None else _joined(other, one)
    return sorted(kept.values(), key=lambda one: (-one.score, one.person, one.what, one.file))


def ranking(predictions: OutOfFold, what: str) -> Ranking:
    """The doubts about everybody's `gender` or `age` (group), by the mean of a person's photos, or about `swap`.

    For a swap, those are left out who lack one of the two photos.
    """
    if what == "swap":
        persons, _, found = _swap_doubts(predictions)
        return Ranking(what, persons, found)
    labels = predictions.people[_COLUMN[what]].to_numpy(np.int64)
    found = doubts(labels, predictions.by_person(_TASK[what]))
    return Ranking(what, predictions.people["person"].tolist(), found)


_TASK = {"gender": "gender2", "age": "age3"}
_COLUMN = {"gender": "gender", "age": "age_group"}
_NAMES = {"gender": GENDERS, "age": AGES}


def _of_people(predictions: OutOfFold, what: str) -> list[Finding]:
    found, names = ranking(predictions, what), _NAMES[what]
    probabilities = predictions.by_person(_TASK[what])
    labels = predictions.people[_COLUMN[what]].tolist()
    findings = []
    for number in np.flatnonzero(found.doubts.is_doubtful).tolist():
        rows = np.flatnonzero(predictions.number == number)
        why = f"predicted from {len(rows)} photos: {in_words(probabilities[number], names)}"
        findings.append(
            Finding(
                what,
                found.persons[number],
                float(found.doubts.score[number]),
                why,
                best_seen(predictions.photos, rows),
                value=names[found.doubts.proposed[number]],
                was=names[labels[number]],
            )
        )
    return findings


def _swap_doubts(predictions: OutOfFold) -> tuple[list[str], np.ndarray, Doubts]:
    """Persons (m) with one photo each that is labelled incorrect and not worn, their rows (m, 2), and the doubts."""
    photos, masks = predictions.photos, predictions.by_photo("mask3")
    pairs = []
    for _, rows in sorted(photos.groupby("person").indices.items()):
        states = photos["mask"].to_numpy()[rows]
        incorrect, not_worn = rows[states == INCORRECT], rows[states == NOT_WORN]
        if len(incorrect) == len(not_worn) == 1:
            pairs.append((incorrect[0], not_worn[0]))
    both = np.array(pairs, np.int64).reshape(-1, 2)
    first, second = masks[both[:, 0]], masks[both[:, 1]]
    as_labelled = first[:, INCORRECT] * second[:, NOT_WORN]
    exchanged = first[:, NOT_WORN] * second[:, INCORRECT]
    score = exchanged / np.maximum(as_labelled + exchanged, np.finfo(np.float64).tiny)
    persons = photos["person"].to_numpy(object)[both[:, 0]].tolist()
    return persons, both, Doubts(score > 0.5, np.ones(len(both), np.int64), score)


def _swaps(predictions: OutOfFold) -> list[Finding]:
    persons, both, found = _swap_doubts(predictions)
    masks = predictions.by_photo("mask3")
    findings = []
    for number in np.flatnonzero(found.is_doubtful).tolist():
        incorrect, not_worn = both[number].tolist()
        why = (
            f"labelled {MASKS[INCORRECT]}, predicted {in_words(masks[incorrect], MASKS)}; "
            f"labelled {MASKS[NOT_WORN]}, predicted {in_words(masks[not_worn], MASKS)}"
        )
        findings.append(Finding("swap", persons[number], float(found.score[number]), why, (incorrect, not_worn)))
    return findings


def _masks(predictions: OutOfFold) -> list[Finding]:
    photos, masks = predictions.photos, predictions.by_photo("mask3")
    labels = photos["mask"].to_numpy(np.int64)
    found = doubts(labels, masks)
    persons = photos["person"].to_numpy(object)
    findings = []
    for row in np.flatnonzero(found.is_doubtful).tolist():
        # Beside the photo, one of the same person in the state that is proposed.
        alike = np.flatnonzero((persons == persons[row]) & (labels == found.proposed[row]))[:1]
        findings.append(
            Finding(
                "mask",
                str(persons[row]),
                float(found.score[row]),
                f"predicted from this photo: {in_words(masks[row], MASKS)}",
                (row, *alike.tolist()),
                value=MASKS[found.proposed[row]],
                was=MASKS[labels[row]],
                file=file_of(photos, row),
            )
        )
    return findings


def _joined(one: Finding, other: Finding) -> Finding:
    first, second = sorted((one, other), key=lambda each: -each.score)
    return replace(first, why=f"{first.why}; {second.why}", rows=tuple(dict.fromkeys((*first.rows, *second.rows))))


def in_words(probabilities: np.ndarray, names: Sequence[str]) -> str:
    """Probabilities (k,) as text, the largest first: `female 0.93, male 0.07`."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    return ", ".join(f"{names[label]} {probabilities[label]:.2f}" for label in order)


def best_seen(photos: pd.DataFrame, rows: np.ndarray) -> tuple[int, ...]:
    """Of a person's rows up to MAX_SHOWN, those first in which most of the face is seen."""
    states = photos["mask"].to_numpy()[rows].tolist()
    order = sorted(range(len(rows)), key=lambda place: BEST_SEEN.index(states[place]))
    return tuple(int(rows[place]) for place in order[:MAX_SHOWN])


def file_of(photos: pd.DataFrame, row: int) -> str:
    """A photo's name as corrections have it: without its ending; or its key, if another photo of the person has it."""
    key = str(photos["key"].iloc[row]).lower()
    theirs = photos["key"][(photos["person"] == photos["person"].iloc[row]).to_numpy()]
    stems = [Path(str(other)).stem.lower() for other in theirs]
    return Path(key).stem if stems.count(Path(key).stem) == 1 else key


def age_of(photos: pd.DataFrame, row: int) -> str:
    """The age of a photo's person as corrections have it: in years, or the age group where only that is known."""
    years = float(photos["age"].iloc[row])
    return AGES[int(photos["age_group"].iloc[row])] if np.isnan(years) else str(int(years))
