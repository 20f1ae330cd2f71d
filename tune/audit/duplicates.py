"""Photos that stand twice with different labels: the same file, or one that looks the same.

Of one file under two people whose gender or age group differ, or of one person in two mask states, at least one label
is wrong: it is proposed to correct the one that the predictions find less probable. Two files that look the same may
yet show two people or two states, so there the predictions must also find the correction more probable than the label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from maskcls.data.near_duplicates import by_people, search
from maskcls.errors import DataError
from maskcls.labels import AGES, GENDERS, MASKS
from maskcls.reports.explore.facts import identical_rows, numbered
from maskcls.reports.explore.photo_looks import Look
from tune.audit.findings import Finding, age_of, file_of
from tune.audit.predictions import OutOfFold

SAME_FILE = "the same file"
Twins = tuple[int, int, str]
"""Two rows, and how alike their photos are, in words."""


def contradictions(predictions: OutOfFold, looks: Sequence[Look | DataError]) -> list[Finding]:
    """Return a finding for each label in which two photos differ that are the same or look the same.

    Args:
        looks: of each row of the photos; a photo that can't be decoded is like no other.
    """
    photos = predictions.photos
    found: dict[tuple[str, str, str], Finding] = {}
    for one, other, how in _twins(predictions, looks):
        if photos["person"].iloc[one] != photos["person"].iloc[other]:
            made = [_of_people(predictions, what, one, other, how) for what in ("gender", "age")]
        else:
            made = [_of_photos(predictions, one, other, how)]
        for finding in made:
            if finding is not None and (how == SAME_FILE or finding.score > 0.5):
                found.setdefault(finding.key, finding)
    return list(found.values())


def _twins(predictions: OutOfFold, looks: Sequence[Look | DataError]) -> Iterator[Twins]:
    """Yield the pairs of alike photos, identical ones first; of two people only their most alike pair."""
    good = [row for row, look in enumerate(looks) if isinstance(look, Look)]
    seen = [look for look in looks if isinstance(look, Look)]
    if not seen:
        return
    contents, persons = numbered([look.content for look in seen]), predictions.number[good]
    for group in (group for groups in identical_rows(contents, persons) for group in groups):
        for other in group[1:]:
            yield good[group[0]], good[other], SAME_FILE
    near = search(np.stack([look.hash for look in seen]), persons, contents)
    for pair in [pair for pair, _ in by_people(near.across, persons)] + near.within:
        yield good[pair.first], good[pair.second], f"looks the same ({pair.bits_apart} bits apart)"


def _of_people(predictions: OutOfFold, what: str, one: int, other: int, how: str) -> Finding | None:
    """The finding about the gender or the age group of two people who share a photo; None where they agree."""
    column, names, task = {"gender": ("gender", GENDERS, "gender2"), "age": ("age_group", AGES, "age3")}[what]
    photos, probabilities = predictions.photos, predictions.by_person(task)
    labels = [int(photos[column].iloc[row]) for row in (one, other)]
    if labels[0] == labels[1]:
        return None
    scores = [
        _score(probabilities[predictions.number[row]], given, instead)
        for row, given, instead in ((one, *labels), (other, *reversed(labels)))
    ]
    if scores[1] > scores[0]:
        one, other, labels, scores = other, one, labels[::-1], scores[::-1]
    return Finding(
        what,
        str(photos["person"].iloc[one]),
        scores[0],
        f"{photos['key'].iloc[one]}: {how} as {photos['key'].iloc[other]}, which is labelled {names[labels[1]]}",
        (one, other),
        value=names[labels[1]] if what == "gender" else age_of(photos, other),
        was=names[labels[0]],
    )


def _of_photos(predictions: OutOfFold, one: int, other: int, how: str) -> Finding | None:
    """The finding about two photos of one person; None where their mask states agree."""
    photos, probabilities = predictions.photos, predictions.by_photo("mask3")
    labels = [int(photos["mask"].iloc[row]) for row in (one, other)]
    if labels[0] == labels[1]:
        return None
    scores = [_score(probabilities[one], *labels), _score(probabilities[other], *reversed(labels))]
    if scores[1] > scores[0]:
        one, other, labels, scores = other, one, labels[::-1], scores[::-1]
    return Finding(
        "mask",
        str(photos["person"].iloc[one]),
        scores[0],
        f"{how} as {file_of(photos, other)}, which is labelled {MASKS[labels[1]]}",
        (one, other),
        value=MASKS[labels[1]],
        was=MASKS[labels[0]],
        file=file_of(photos, one),
    )


def _score(probabilities: np.ndarray, given: int, instead: int) -> float:
    """The score of another label than the given one, as `tune.audit.confident.Doubts` has it."""
    return float(1 + probabilities[instead] - probabilities[given]) / 2
