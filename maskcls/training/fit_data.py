"""What a fit reads: the pixel store, which photos it trains and validates on, and what training is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import age_group, decode, encode
from maskcls.recipe import Recipe
from maskcls.tasks import Task

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class FitData:
    """Pixels (photos, s, s, 3) uint8, usually memory-mapped; of each photo its class (0..17), its key and its person's age in years;
    rows of the two sides.

    `digest` names photos, labels and split; a saved fit goes on only with the same. Where nobody is left to validate on, `validation`
    is empty, and the fit is never scored.
    """

    pixels: NDArray[np.uint8]
    labels: Integers
    ages: Integers
    keys: Sequence[str]
    train: Integers
    validation: Integers
    digest: str
    pixels_digest: str = ""
    """Of what the pixels hang on; "" where that is not known, for photos changed meanwhile, and so nothing is kept that hangs on them."""

    @classmethod
    def of(cls, faces: FaceDataset, recipe: Recipe, progress: bool = False) -> FitData:
        """The train and validation people of the data, as the recipe sees them; decodes the photos where no pixel store has them."""
        before = faces.pixels_digest(recipe.image_size, recipe.face_crop)
        pixels = faces.pixels(recipe.image_size, progress, recipe.face_crop)
        unchanged = before == faces.pixels_digest(recipe.image_size, recipe.face_crop)
        return cls(
            pixels=pixels,
            labels=faces.photos["label"].to_numpy(np.int64),
            ages=faces.photos["age"].to_numpy(np.int64),
            keys=faces.photos["key"].tolist(),
            train=faces.rows("train"),
            validation=faces.rows("validation"),
            digest=f"{faces.digest}-{faces.split.digest}",
            pixels_digest=before if unchanged else "",
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
    def of(
        cls, recipe: Recipe, tasks: Sequence[Task], labels: Integers, ages: Integers, rows: Integers
    ) -> TrainingPhotos:
        """From the classes and ages of all photos, and the rows of those to train on.

        Args:
            recipe: as the model of these tasks has it (`Recipe.of_model`).

        Raises CallError, with the ages that there are, where the recipe leaves a label of a task without photos that has some.
        """
        left_out = np.zeros(len(rows), bool)
        for first, last in recipe.age_bands:
            left_out |= (first <= ages[rows]) & (ages[rows] <= last)
        kept = rows[~left_out]
        cuts = (recipe.age_cut_young, recipe.age_cut_old)
        groups = {int(age): age_group(int(age), cuts) for age in np.unique(ages[kept])}
        told = [
            encode(*decode(class_)[:2], groups[age])
            for class_, age in zip(labels[kept].tolist(), ages[kept].tolist(), strict=True)
        ]
        photos = cls(kept, np.array(told, np.int64), ages[kept])
        for task in tasks:
            empty = set(task.of(labels[rows]).tolist()) - set(task.of(photos.classes).tolist())
            if empty:
                raise CallError(_refusal(recipe, task, min(empty), ages[rows], photos))
        return photos


def check_trainable(recipe: Recipe, faces: FaceDataset) -> None:
    """Raises CallError where age cuts and bands of the recipe, or of a member, leave a label without training photos."""
    labels, ages = (faces.photos[name].to_numpy(np.int64) for name in ("label", "age"))
    for tasks in recipe.split.models:
        TrainingPhotos.of(recipe.of_model(tasks), tasks, labels, ages, faces.rows("train"))


def _refusal(recipe: Recipe, task: Task, label: int, ages: Integers, photos: TrainingPhotos) -> str:
    left = f"Left are ages from {photos.ages.min()} to {photos.ages.max()}." if len(photos.ages) else "No age is left."
    return (
        f"age_cut_young={recipe.age_cut_young}, age_cut_old={recipe.age_cut_old}, ages_left_out={recipe.ages_left_out!r} leave nobody to "
        f"train {task.name} on who is {task.label_names[label]!r}. The training people are {ages.min()} to {ages.max()} years old. {left} "
        "Choose cuts and bands that leave somebody in each age group."
    )
