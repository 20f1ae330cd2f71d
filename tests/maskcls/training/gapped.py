"""The small data with gaps: some photos lack the age, some the mask, some gender and age, some have the age group only.

Photos 0 to 17 are whole, so that every class can be learnt.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from maskcls.labels import UNKNOWN, decode
from maskcls.training.fit_data import FitData
from tests.maskcls.training.small import data

MASK, GENDER, AGE = range(3)
LACKING: tuple[tuple[int, ...], ...] = ((), (AGE,), (MASK,), (GENDER, AGE))
"""What photo i lacks: the i-th of these in turn, from the 18th photo on."""


def lacking(row: int) -> tuple[int, ...]:
    return LACKING[row % len(LACKING)] if row >= 18 else ()


def gapped(n: int = 90) -> FitData:
    """Of the validation photos, too, three in four lack something. Every fifth photo of a known group has no age."""
    whole = data(n)
    attributes = np.array([decode(class_) for class_ in whole.labels.tolist()])
    labels, ages = whole.labels.copy(), whole.ages.copy()
    for row in range(n):
        for attribute in lacking(row):
            attributes[row, attribute] = UNKNOWN
            labels[row] = UNKNOWN
        if AGE in lacking(row) or row % 5 == 0:
            ages[row] = UNKNOWN
    return replace(whole, labels=labels, ages=ages, attributes=attributes)


def without(photos: FitData, *attributes: int) -> FitData:
    """The same data, trained on the photos alone that lack none of these attributes."""
    rows = [row for row in photos.train.tolist() if not set(attributes) & set(lacking(row))]
    return replace(photos, train=np.array(rows))
