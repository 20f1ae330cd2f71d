"""What a fit reads: the pixels, the photos that it trains and validates on, and the classes and ages it trains with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import AGE_CUTS, N_CLASSES, UNKNOWN, decode
from maskcls.recipe import Recipe
from maskcls.tasks import Task, age_groups, possible_classes

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

Integers = NDArray[np.int64]

OLDEST = 150
"""No age in years is above it."""


@dataclass(frozen=True)
class FitData:
    """The photos of a fit under one split of the people.

    Args:
        pixels: (photos, s, s, 3) uint8, usually memory-mapped.
        labels: (photos,) classes 0..17; UNKNOWN where mask, gender or age group is not known.
        ages: (photos,) full years; UNKNOWN where the age is not known.
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
    attributes: Integers | None = None
    """(photos, 3) mask, gender and age group, UNKNOWN where not known, of photos whose class is UNKNOWN: those of the
    others follow from their classes, whatever stands here. None where every class is known, or nothing of a photo
    whose class is not."""

    @classmethod
    def of(cls, faces: FaceDataset, recipe: Recipe, progress: bool = False) -> FitData:
        """The data at the recipe's image size and face crop; decodes the photos if no pixel store holds them.

        Args:
            progress: whether to show a progress bar while photos are decoded.
        """
        pixels, pixels_digest = faces.known_pixels(recipe.image_size, progress, recipe.face_crop)
        return replace(
            cls.without_pixels(faces),
            pixels=pixels,
            pixels_digest=pixels_digest,
            decoding_s=faces.decoding_s(pixels_digest),
        )

    @classmethod
    def without_pixels(cls, faces: FaceDataset) -> FitData:
        """The data before any photo is decoded: all but the pixels."""
        return cls(
            pixels=np.zeros((len(faces.photos), 0, 0, 3), np.uint8),
            **_known_of(faces.photos),
            keys=faces.photos["key"].tolist(),
            train=faces.rows("train"),
            validation=faces.rows("validation"),
            digest=f"{faces.digest}-{faces.split.digest}",
        )

    @property
    def is_scored(self) -> bool:
        """Whether a validation photo has all labels, so that an epoch has a score."""
        return bool((self.labels[self.validation] != UNKNOWN).any())

    def relabelled(self, photos: pd.DataFrame, rows: Integers) -> FitData:
        """The data in which these rows (m,) have the labels, ages and attributes of another photo table.

        Args:
            photos: a table of the same photos in the same order.
        """
        labels, ages, attributes = self.labels.copy(), self.ages.copy(), self.known_attributes()
        other = replace(self, **_known_of(photos))
        labels[rows], ages[rows] = other.labels[rows], other.ages[rows]
        attributes[rows] = other.known_attributes(rows)
        return replace(self, labels=labels, ages=ages, attributes=attributes)

    def known_attributes(self, rows: Integers | slice = slice(None)) -> Integers:
        """Mask, gender and age group of these rows (m,), all by default, (m, 3); UNKNOWN where not known."""
        of_class = np.array([*map(decode, range(N_CLASSES)), (UNKNOWN,) * 3], np.int64)  # UNKNOWN takes the last
        known: Integers = of_class[self.labels[rows]]
        if self.attributes is None:
            return known
        return np.where((self.labels[rows] == UNKNOWN)[:, None], self.attributes[rows], known)

    def years(self, rows: Integers) -> tuple[Integers, Integers]:
        """The youngest and the oldest age, (m,) years each, that the people of these rows (m,) may have."""
        groups, ages = self.known_attributes(rows)[:, 2], self.ages[rows]
        first, last = np.array([0, *AGE_CUTS, 0]), np.array([*(cut - 1 for cut in AGE_CUTS), OLDEST, OLDEST])
        is_known = ages != UNKNOWN  # else by the age group, of which UNKNOWN takes the last
        return np.where(is_known, ages, first[groups]), np.where(is_known, ages, last[groups])


@dataclass(frozen=True)
class TrainingPhotos:
    """Photos that one model trains on: those that have a label for one of its tasks.

    The recipe may move the age cuts and leave bands of ages out, for training only: scores use the true classes.

    Args:
        rows: (n,) of the data.
        possible: (n, 18) bool, which classes each may have under the recipe's cuts, by what is known of it.
        ages: (n,) years; UNKNOWN where it is not known.
    """

    rows: Integers
    possible: NDArray[np.bool_]
    ages: Integers

    @classmethod
    def of(cls, recipe: Recipe, tasks: Sequence[Task], data: FitData) -> TrainingPhotos:
        """Apply a recipe's age cuts and age bands to the training photos, and leave out those without a label.

        A photo of which only the age group is known is left out with a band that holds all ages of the group.

        Args:
            recipe: of the model of these tasks (`Recipe.of_model`).

        Raises CallError if no training photo has a label for a task, or the recipe's cuts and bands leave a label of a
        task without photos, with the ages that there are.
        """
        every = cls._under(AGE_CUTS, data, data.train)
        for task in tasks:
            if (every.labels(task) == UNKNOWN).all():
                raise CallError(_nothing_known(task, len(data.train)))
        youngest, oldest = data.years(data.train)
        left_out = np.zeros(len(data.train), bool)  # (m,)
        for first, last in recipe.age_bands:
            left_out |= (first <= youngest) & (oldest <= last)
        photos = cls._under((recipe.age_cut_young, recipe.age_cut_old), data, data.train[~left_out])
        for task in tasks:
            empty = set(every.labels(task).tolist()) - set(photos.labels(task).tolist()) - {UNKNOWN}
            if empty:
                raise CallError(_refusal(recipe, task, min(empty), every.ages, photos))
        has_label = np.any([photos.labels(task) != UNKNOWN for task in tasks], axis=0)  # (m',)
        return cls(photos.rows[has_label], photos.possible[has_label], photos.ages[has_label])

    @classmethod
    def _under(cls, cuts: tuple[int, int], data: FitData, rows: Integers) -> TrainingPhotos:
        """These rows, with age groups that end at the cuts."""
        mask, gender, _ = data.known_attributes(rows).T  # (m,) each
        first, last = (age_groups(years, cuts) for years in data.years(rows))
        return cls(rows, possible_classes(mask, gender, first, last), data.ages[rows])

    def labels(self, task: Task) -> Integers:
        """Each photo's label of a task, (n,); UNKNOWN where it has none, because its possible classes differ in it."""
        return task.of_possible(self.possible)

    @property
    def classes(self) -> Integers:
        """Each photo's class 0..17, (n,); UNKNOWN where more than one is possible."""
        return np.where(self.possible.sum(axis=1) == 1, self.possible.argmax(axis=1), UNKNOWN)


def scored_rows(faces: FaceDataset, side: str) -> Integers:
    """The rows, rising, of the photos of `train`, `validation` or `holdout` that have all labels: only they are scored.

    Args:
        faces: the dataset.
    """
    rows = faces.rows(side)
    scored: Integers = rows[faces.photos["label"].to_numpy(np.int64)[rows] != UNKNOWN]
    return scored


def check_trainable(recipe: Recipe, faces: FaceDataset) -> None:
    """Raise CallError if the recipe cannot be trained on these photos, before they are decoded.

    Either age cuts or bands of the recipe, or of a member, leave a label without training photos, or no training photo
    has a label for a member, or a batch would be one photo where BatchNorm needs more.
    """
    data = FitData.without_pixels(faces)
    trained = [len(TrainingPhotos.of(recipe.of_model(tasks), tasks, data).rows) for tasks in recipe.split.models]
    if any(recipe.of_model(tasks).batch_size < 3 for tasks in recipe.split.models):  # else no batch is one photo
        from maskcls.training.batch_norm import check_batches  # imports torch and timm

        check_batches(recipe, list(map(recipe.drawn_of, trained)))


def _known_of(photos: pd.DataFrame) -> dict[str, Any]:
    """What a photo table says for FitData's labels, ages and attributes."""
    labels = photos["label"].to_numpy(np.int64)
    attributes = None
    if (labels == UNKNOWN).any():
        attributes = photos[["mask", "gender", "age_group"]].to_numpy(np.int64)
    return {"labels": labels, "ages": _whole_years(photos["age"]), "attributes": attributes}


def _whole_years(ages: pd.Series[Any]) -> Integers:
    """Ages in full years, UNKNOWN where there is none."""
    years = pd.to_numeric(ages, errors="coerce").to_numpy(np.float64)
    return np.where(np.isnan(years), UNKNOWN, np.floor(years)).astype(np.int64)


def _nothing_known(task: Task, n: int) -> str:
    return (
        f"None of the {n:,} training photos has a label for {task.name} ({', '.join(task.label_names)}): what it needs "
        "of mask, gender and age is known of no photo. Add photos of which it is known."
    )


def _refusal(recipe: Recipe, task: Task, label: int, ages: Integers, photos: TrainingPhotos) -> str:
    known, left_over = ages[ages != UNKNOWN], photos.ages[photos.ages != UNKNOWN]
    there = f"The training people are {known.min()} to {known.max()} years old. " if len(known) else ""
    left = f"Left are ages from {left_over.min()} to {left_over.max()}." if len(left_over) else "No age is left."
    return (
        f"age_cut_young={recipe.age_cut_young}, age_cut_old={recipe.age_cut_old}, "
        f"ages_left_out={recipe.ages_left_out!r} leave nobody to train {task.name} on who is "
        f"{task.label_names[label]!r}. {there}{left} "
        "Choose cuts and bands that leave somebody in each age group."
    )
