"""Predictions as typed rows, one per photo, and as a table of pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.labels import AGES, GENDERS, MASKS, class_name, decode
from maskcls.serving.marginals import PROBABILITY_COLUMNS, marginals

NOT_SURE = "not sure"
"""The answer in place of a class."""


@dataclass(frozen=True)
class PhotoPrediction:
    """What a classifier says of a photo that it could read; of another one `error` alone is known.

    The class is the one that the bundle decides for, which may not be the likeliest where it has a decision rule. Where
    it abstains, for that class has too low a probability, class and attributes are None.
    """

    photo: str
    """The path, or `photos[3]` for what is no file."""
    class_: int | None = None
    """The class, 0..17."""
    mask: str | None = None
    gender: str | None = None
    age_group: str | None = None
    """The class's attributes, in the words of `maskcls.labels`."""
    probability: float | None = None
    """Of that class, 0 to 1."""
    probabilities: tuple[float, ...] = ()
    """Of the 18 classes, adding up to one."""
    is_sure: bool = True
    """False: the answer is "not sure"."""
    faces: int | None = None
    """How many faces the photo has; None: nobody looked."""
    error: str = ""
    """Why the photo could not be read; empty for one that could."""

    @property
    def class_name(self) -> str:
        """The class in words, as in `worn, male, under 30`, or `not sure`; empty for a photo that could not be read."""
        if not self.is_sure:
            return NOT_SURE
        return "" if self.class_ is None else class_name(self.class_)

    @property
    def marginals(self) -> dict[str, dict[str, float]]:
        """The probabilities of each label of mask, gender and age_group; none of a photo that could not be read."""
        return marginals(np.array(self.probabilities)) if self.probabilities else {}


def row_of(
    photo: object, place: int, class_: int, probabilities: NDArray[np.float64], error: str = "", abstain: float = 0.0
) -> PhotoPrediction:
    """Return a photo's prediction, from its class and (18,) probabilities, or from what is wrong with it."""
    name, numbers = name_of(photo, place), tuple(probabilities.tolist())
    if error:
        return PhotoPrediction(name, error=error)
    if numbers[class_] < abstain:
        return PhotoPrediction(name, probability=numbers[class_], probabilities=numbers, is_sure=False)
    found = decode(class_)
    return PhotoPrediction(
        photo=name,
        class_=class_,
        mask=MASKS[found.mask],
        gender=GENDERS[found.gender],
        age_group=AGES[found.age],
        probability=numbers[class_],
        probabilities=numbers,
    )


def table_of(
    photos: Sequence[object],
    classes: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    bad: Mapping[int, str] | None = None,
    abstain: float = 0.0,
    faces: Sequence[int | None] | None = None,
) -> pd.DataFrame:
    """Return n photos, their classes (n,) and probabilities (n, 18) as a table, one row per photo.

    Args:
        bad: for photos that could not be read, by their row, what is wrong. None: there is no column `error`.
        abstain: below this probability of the class it is missing. 0: there is no column `sure`.
        faces: of each photo. None: there is no column `faces`.
    """
    named = probabilities[np.arange(len(classes)), classes]  # (n,)
    found = [decode(int(class_)) for class_ in classes]
    table = pd.DataFrame(
        {
            "photo": [name_of(photo, row) for row, photo in enumerate(photos)],
            "mask": [MASKS[one.mask] for one in found],
            "gender": [GENDERS[one.gender] for one in found],
            "age_group": [AGES[one.age] for one in found],
            "class": classes,
            "probability": named,
        }
    ).join(pd.DataFrame(probabilities, columns=list(PROBABILITY_COLUMNS)))
    if bad is not None or abstain:
        table = table.astype({"class": "Int64"})  # which may be missing
    if abstain:
        sure = named >= abstain  # (n,)
        table.loc[~sure, ["mask", "gender", "age_group", "class"]] = pd.NA
        table.insert(list(table).index("probability") + 1, "sure", pd.Series(sure, dtype="boolean"))
    if faces is not None:
        table["faces"] = pd.array(list(faces), dtype="Int64")
    if bad is not None:
        table.loc[list(bad), table.columns[1:]] = pd.NA
        table["error"] = [bad.get(row, "") for row in range(len(photos))]
    return table


def name_of(photo: object, place: int) -> str:
    """Return what a photo is called: a file's path; other photos have no name but their place."""
    return str(photo) if isinstance(photo, str | Path) else f"photos[{place}]"
