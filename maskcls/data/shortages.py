"""Classes and labels that too few people have: for the split, for the folds, or to be trained at all; with numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pandas as pd

from maskcls.data.layouts.words import NAMES
from maskcls.data.splits import SIDES, Split, extra_people, scored_people
from maskcls.labels import CLASS_NAMES, UNKNOWN
from maskcls.text import counted, plural

NAMED = 4
"""Labels and classes that a sentence names at most."""


def people_by_label(photos: pd.DataFrame, persons: Collection[str]) -> dict[str, int]:
    """Return how many of these people have a photo of each label and, after those, of each of the 18 classes.

    Only photos with all labels count: the others are not scored.
    """
    theirs = photos[photos["person"].isin(list(persons)) & (photos["label"] != UNKNOWN)]
    names = {column: [f"{_words(column)} {name}" for name in labels] for column, labels in NAMES.items()}
    names["label"] = [f"{class_} ({name})" for class_, name in enumerate(CLASS_NAMES)]
    people: dict[str, int] = {}
    for column, listed in names.items():
        counts = theirs.groupby(column)["person"].nunique()
        people |= {name: int(counts.get(index, 0)) for index, name in enumerate(listed)}
    return people


def shortages(photos: pd.DataFrame, split: Split) -> list[str]:
    """Return what is to be said of labels and classes that cannot be on every side, and of people who are not scored.

    Extra people are not counted: they are never scored.
    """
    sides = [name for name in SIDES if split.side(name)]
    scored = scored_people(photos)
    total = people_by_label(photos, scored)
    by_side = [people_by_label(photos, scored & set(split.side(name))) for name in sides]
    few = sorted((name for name, people in total.items() if people < len(sides)), key=lambda name: total[name])
    notes = []
    if few:
        listed = [f"{name}: {' + '.join(str(counts[name]) for counts in by_side)}" for name in few]
        notes.append(
            f"{_counted(few)} fewer people than the split has sides, so that a side is scored without "
            f"{plural(len(few), 'it', 'them')}. People in {' + '.join(sides)}: {_first(listed)}. Add people of that "
            "gender and age, and their photos, or say who is on which side with --split."
        )
    others = set(split.train) - scored - extra_people(photos)
    if others:
        notes.append(
            f"{counted(len(others), 'person is', 'people are')} in training alone, because none of their photos has "
            "mask, gender and age group, by which it could be scored."
        )
    return notes


def _words(column: str) -> str:
    return column.replace("_", " ")


def _counted(few: Sequence[str]) -> str:
    return counted(len(few), "label or class has", "labels and classes have")


def _first(listed: Sequence[str]) -> str:
    """Return the first few of some texts that have commas of their own."""
    rest = len(listed) - NAMED
    return "; ".join(listed[:NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def too_few_for_folds(photos: pd.DataFrame, split: Split, folds: int) -> str:
    """Return what is to be said of labels and classes that cannot be in every fold of train and validation; or ""."""
    counts = people_by_label(photos, scored_people(photos) & {*split.train, *split.validation})
    few = [name for name, people in counts.items() if 0 < people < folds]
    if not few:
        return ""
    listed = [f"{name}: {counted(counts[name], 'person', 'people')}" for name in few]
    return (
        f"{_counted(few)} fewer people in training and validation than there are folds ({folds}), so that a fold is "
        f"scored without {plural(len(few), 'it', 'them')}: {_first(listed)}. Add people of that gender and age, and "
        "their photos, or make fewer folds."
    )


def labels_of_nobody(photos: pd.DataFrame, persons: Collection[str]) -> list[str]:
    """Return the labels of mask, gender and age group that no photo of these people has, as in `mask incorrect`."""
    theirs = photos[photos["person"].isin(list(persons))]
    return [
        f"{_words(column)} {name}"
        for column, names in NAMES.items()
        for name in _absent(names, set(theirs[column]) - {UNKNOWN})
    ]


def _absent(names: Sequence[str], present: Collection[int]) -> list[str]:
    return [name for index, name in enumerate(names) if index not in present]
