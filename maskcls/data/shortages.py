"""Classes and labels that too few people have: for the split, for the folds, or to be trained at all; with numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from maskcls.data.layouts.words import NAMES
from maskcls.data.splits import SIDES, Split, extra_people, scored_people
from maskcls.labels import CLASS_NAMES, UNKNOWN
from maskcls.text import counted, plural

NAMED = 4
"""Classes that a sentence names at most."""


def people_by_class(photos: pd.DataFrame, persons: Collection[str]) -> list[int]:
    """Return for each of the 18 classes how many of these people have a photo of it."""
    counts = photos[photos["person"].isin(list(persons))].groupby("label")["person"].nunique()
    return [int(counts.get(class_, 0)) for class_ in range(len(CLASS_NAMES))]


def shortages(photos: pd.DataFrame, split: Split) -> list[str]:
    """Return what is to be said of classes that cannot be on every side of a split, and of people who are not scored.

    Extra people are not counted: they are never scored.
    """
    sides = [name for name in SIDES if split.side(name)]
    scored = scored_people(photos)
    total = people_by_class(photos, scored)
    by_side = [people_by_class(photos, scored & set(split.side(name))) for name in sides]
    few = sorted(
        (class_ for class_, people in enumerate(total) if people < len(sides)), key=lambda class_: total[class_]
    )
    notes = []
    if few:
        listed = [f"{_named(class_)}: {' + '.join(str(counts[class_]) for counts in by_side)}" for class_ in few]
        notes.append(
            f"{counted(len(few), 'class has', 'classes have')} fewer people than the split has sides, so that a side "
            f"is scored without {plural(len(few), 'it', 'them')}. People in {' + '.join(sides)}: {_first(listed)}. "
            "Add people of that gender and age, or say who is on which side with --split."
        )
    others = set(split.train) - scored - extra_people(photos)
    if others:
        notes.append(
            f"{counted(len(others), 'person is', 'people are')} in training alone, because none of their photos has "
            "mask, gender and age group, by which it could be scored."
        )
    return notes


def _named(class_: int) -> str:
    return f"{class_} ({CLASS_NAMES[class_]})"


def _first(listed: Sequence[str]) -> str:
    """The first few of some texts that have commas of their own."""
    rest = len(listed) - NAMED
    return "; ".join(listed[:NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def too_few_for_folds(photos: pd.DataFrame, split: Split, folds: int) -> str:
    """Return what is to be said of classes that cannot be in every fold of the train and validation people; or ""."""
    persons = scored_people(photos) & {*split.train, *split.validation}
    counts = people_by_class(photos, persons)
    few = [class_ for class_, people in enumerate(counts) if 0 < people < folds]
    if not few:
        return ""
    listed = [f"{_named(class_)}: {counted(counts[class_], 'person', 'people')}" for class_ in few]
    return (
        f"{counted(len(few), 'class has', 'classes have')} fewer people in training and validation than there are "
        f"folds ({folds}), so that a fold is scored without {plural(len(few), 'it', 'them')}: {_first(listed)}. Add "
        "people of that gender and age, or make fewer folds."
    )


def labels_of_nobody(photos: pd.DataFrame, persons: Collection[str]) -> list[str]:
    """Return the labels of mask, gender and age group that no photo of these people has, as in `mask incorrect`."""
    theirs = photos[photos["person"].isin(list(persons))]
    return [
        f"{column.replace('_', ' ')} {name}"
        for column, names in NAMES.items()
        for name in _absent(names, set(theirs[column]) - {UNKNOWN})
    ]


def _absent(names: Sequence[str], present: Collection[int]) -> list[str]:
    return [name for index, name in enumerate(names) if index not in present]
