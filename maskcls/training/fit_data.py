"""What a fit reads: the pixel store, which photos it trains and validates on, and what training is told of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import CLASS_NAMES, N_CLASSES, age_group, decode, encode
from maskcls.recipe import Recipe

if TYPE_CHECKING:
    from maskcls.data.facedata import FaceData

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class FitData:
    """Pixels (photos, s, s, 3) uint8, usually memory-mapped; of each photo its class (0..17), its key and its person's age in years;
    rows of the two sides.

    `digest` names photos, labels and split; a saved fit goes on only with the same.
    """

    pixels: NDArray[np.uint8]
    labels: Integers
    ages: Integers
    keys: Sequence[str]
    train: Integers
    validation: Integers
    digest: str

    @classmethod
    def of(cls, faces: "FaceData", recipe: Recipe, progress: bool = False) -> "FitData":
        """The train and validation people of the data, as the recipe sees them; decodes the photos where no pixel store has them."""
        return cls(
            pixels=faces.pixels(recipe.image_size, progress, recipe.face_crop),
            labels=faces.photos["label"].to_numpy(np.int64),
            ages=faces.photos["age"].to_numpy(np.int64),
            keys=faces.photos["key"].tolist(),
            train=faces.rows("train"),
            validation=faces.rows("validation"),
            digest=f"{faces.digest}-{faces.split.digest}",
        )


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos that one model trains on: their rows, the classes (0..17) that it is told, and the ages in years; (n,) each.

    The recipe may move the age cuts and leave bands of ages out, here alone: whatever is scored keeps the true classes.
    """

    rows: Integers
    classes: Integers
    ages: Integers

    @classmethod
    def of(cls, recipe: Recipe, data: FitData) -> "TrainingPhotos":
        """Raises CallError, with the ages that there are, where the recipe leaves a class without photos that has some."""
        ages = data.ages[data.train]
        left_out = np.zeros(len(ages), bool)
        for first, last in recipe.age_bands:
            left_out |= (first <= ages) & (ages <= last)
        rows = data.train[~left_out]
        classes = data.labels[rows]
        cuts = (recipe.age_cut_young, recipe.age_cut_old)
        groups = {int(age): age_group(int(age), cuts) for age in np.unique(ages)}
        told = [encode(*decode(class_)[:2], groups[age]) for class_, age in zip(classes.tolist(), data.ages[rows].tolist(), strict=True)]
        photos = cls(rows, np.array(told, np.int64), data.ages[rows])
        _refuse_empty_classes(recipe, data, photos)
        return photos


def _refuse_empty_classes(recipe: Recipe, data: FitData, photos: TrainingPhotos) -> None:
    empty = sorted(set(data.labels[data.train].tolist()) - set(photos.classes.tolist()))
    if not empty:
        return
    there, kept = (sorted(set(ages.tolist())) for ages in (data.ages[data.train], photos.ages))
    left = f"Left are ages from {kept[0]} to {kept[-1]}." if kept else "No age is left."
    raise CallError(
        f"age_cut_young={recipe.age_cut_young}, age_cut_old={recipe.age_cut_old}, ages_left_out={recipe.ages_left_out!r} leave nobody to "
        f"train {len(empty)} of {N_CLASSES} classes on, as {CLASS_NAMES[empty[0]]}. "
        f"The training people are {there[0]} to {there[-1]} years old. {left} Choose cuts and bands that leave somebody in each age group."
    )
