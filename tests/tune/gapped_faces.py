"""Photo tables with gaps: of seven photos in turn one lacks the mask, one the age, one the gender, one the years."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from maskcls.data.dataset import FaceDataset
from maskcls.labels import UNKNOWN

NO_MASK, NO_AGE, NO_GENDER, NO_YEARS = (2, 3, 5, 6)
"""Which of seven photos; those without years have their age group, and so their class."""


def with_gaps(faces: FaceDataset) -> FaceDataset:
    """The same faces; as many photos have all labels on each side of the split as four sevenths of them."""
    return replace(faces, photos=gapped(faces.photos))


def gapped(photos: pd.DataFrame) -> pd.DataFrame:
    """A table with gaps in place of labels."""
    turn = np.arange(len(photos)) % 7
    made = photos.astype({"age": float})
    made.loc[turn == NO_MASK, ["mask", "label"]] = UNKNOWN
    made.loc[turn == NO_GENDER, ["gender", "label"]] = UNKNOWN
    made.loc[turn == NO_AGE, ["age_group", "label"]] = UNKNOWN
    made.loc[(turn == NO_AGE) | (turn == NO_YEARS), "age"] = np.nan
    return made
