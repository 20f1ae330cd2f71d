"""What a fit reads: the pixels, the photos that it trains and validates on, and the classes and ages it trains with."""

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
    """The photos of a fit under one split of the people.

    Args:
        pixels: (photos, s, s, 3) uint8, usually memory-mapped.
        labels: (photos,) classes 0..17.
        ages: (photos,) years.
        keys: of each photo a name that is unique in the data; augmentation draws from it.
        train: rows (n,) to train on.
        validation: rows to validate on. Empty if nobody is left for it; then the fit is never scored.
        digest: of photos, labels and split. A checkpoint is resumed only with the same.
    """

    pixels: NDArray[np.uint8]
    labels: Integers
    ages: Integers
    keys: Sequence[str]
    train: Integers
    validation: Integers
    digest: str
    pixels_digest: str = ""
    """Digest of all that the pixels depend on; "" if unknown, as photos changed meanwhile. Then nothing is cached."""
    decoding_s: float = 0.0
    """How long one thread decoded a photo for the pixel store; 0 where an earlier version made the store."""

    @classmethod
    def of(cls, faces: FaceDataset, recipe: Recipe, progress: bool = False) -> FitData:
        """The data at the recipe's image size and face crop; decodes the photos if no pixel store holds them.

        Args:
            progress: whether to show a progress bar while photos are decoded.
        """
        pixels, pixels_digest = faces.known_pixels(recipe.image_size, progress, recipe.face_crop)
        return cls(
            pixels=pixels,
            labels=faces.photos["label"].to_numpy(np.int64),
            ages=faces.photos["age"].to_numpy(np.int64),
            keys=faces.photos["key"].tolist(),
            train=faces.rows("train"),
            validation=faces.rows("validation"),
            digest=f"{faces.digest}-{faces.split.digest}",
            pixels_digest=pixels_digest,
            decoding_s=faces.decoding_s(pixels_digest),
        )


@dataclass(frozen=True)
class TrainingPhotos:
    """Photos that one model trains on: their rows, the classes (0..17) it trains with, and ages in years; (n,) each.

    The recipe may move the age cuts and leave bands of ages out, for training only: scores use the true classes.
    """

    rows: Integers
    classes: Integers
    ages: Integers

    @classmethod
    def of(
        cls, recipe: Recipe, tasks: Sequence[Task], labels: Integers, ages: Integers, rows: Integers
    ) -> TrainingPhotos:
        """Apply a recipe's age cuts and age bands to the training photos.

        Args:
            recipe: of the model of these tasks (`Recipe.of_model`).
            labels: (photos,) classes 0..17 of all photos.
            ages: (photos,) years.
            rows: (m,) of the photos to train on.

        Raises CallError if that leaves a label of a task without photos, with the ages that there are.
        """
        left_out = np.zeros(len(rows), bool)  # (m,)
        for first, last in recipe.age_bands:
            left_out |= (first <= ages[rows]) & (ages[rows] <= last)
        kept = rows[~left_out]  # (n,)
        cuts = (recipe.age_cut_young, recipe.age_cut_old)
        groups = {int(age): age_group(int(age), cuts) for age in np.unique(ages[kept])}
        classes = [  # (n,), with the age group by the recipe's cuts
            encode(*decode(class_)[:2], groups[age])
            for class_, age in zip(labels[kept].tolist(), ages[kept].tolist(), strict=True)
        ]
        photos = cls(kept, np.array(classes, np.int64), ages[kept])
        for task in tasks:
            empty = set(task.of(labels[rows]).tolist()) - set(task.of(photos.classes).tolist())
            if empty:
                raise CallError(_refusal(recipe, task, min(empty), ages[rows], photos))
        return photos


def check_trainable(recipe: Recipe, faces: FaceDataset) -> None:
    """Raise CallError if the recipe cannot be trained on these photos, before they are decoded.

    Either age cuts or bands of the recipe, or of a member, leave a label without training photos, or a batch would be
    one photo where BatchNorm needs more.
    """
    labels, ages = (faces.photos[name].to_numpy(np.int64) for name in ("label", "age"))
    photos = [
        len(TrainingPhotos.of(recipe.of_model(tasks), tasks, labels, ages, faces.rows("train")).rows)
        for tasks in recipe.split.models
    ]
    if any(recipe.of_model(tasks).batch_size < 3 for tasks in recipe.split.models):  # else no batch is one photo
        from maskcls.training.batch_norm import check_batches  # imports torch and timm

        check_batches(recipe, photos)


def _refusal(recipe: Recipe, task: Task, label: int, ages: Integers, photos: TrainingPhotos) -> str:
    left = f"Left are ages from {photos.ages.min()} to {photos.ages.max()}." if len(photos.ages) else "No age is left."
    return (
        f"age_cut_young={recipe.age_cut_young}, age_cut_old={recipe.age_cut_old}, "
        f"ages_left_out={recipe.ages_left_out!r} leave nobody to train {task.name} on who is "
        f"{task.label_names[label]!r}. The training people are {ages.min()} to {ages.max()} years old. {left} "
        "Choose cuts and bands that leave somebody in each age group."
    )
