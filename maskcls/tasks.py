"""Tasks: labellings of the 18 classes by k labels each, derived from `labels.decode`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import AGES, CLASS_NAMES, GENDERS, MASKS, N_CLASSES, UNKNOWN, Attributes, decode, encode

Integers = NDArray[np.int64]

_MASKS_AND_GENDERS = tuple(product(range(len(MASKS)), range(len(GENDERS))))


@dataclass(frozen=True)
class Task:
    """A name, the names of its k labels, and 18 integers: the label (0..k-1) of each class."""

    name: str
    label_names: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != N_CLASSES:
            raise CallError(
                f"Task {self.name}: one label for each of {N_CLASSES} classes expected, got {len(self.labels)}."
            )
        if set(self.labels) != set(range(len(self.label_names))):
            raise CallError(
                f"Task {self.name}: every label 0..{len(self.label_names) - 1} must be used, "
                f"got {sorted(set(self.labels))}."
            )

    @property
    def n_labels(self) -> int:
        """The number of labels, k."""
        return len(self.label_names)

    @property
    def depends_on_age(self) -> bool:
        """Whether two ages may have different labels where mask and gender are the same."""
        return any(
            len({self.labels[encode(mask, gender, age)] for age in range(len(AGES))}) > 1
            for mask, gender in _MASKS_AND_GENDERS
        )

    def of(self, classes: NDArray[np.integer]) -> Integers:
        """Return the labels (same shape) of an array of classes 0..17; UNKNOWN where the class is."""
        assert UNKNOWN == -1  # so that it takes the last entry
        labels: Integers = np.array([*self.labels, UNKNOWN], dtype=np.int64)[classes]
        return labels

    def of_possible(self, possible: NDArray[np.bool_]) -> Integers:
        """Return the label (n,) that all possible classes of a photo share; UNKNOWN where they have several.

        Args:
            possible: (n, 18), as `possible_classes` gives them; at least one in each row.
        """
        of_label = np.eye(self.n_labels, dtype=bool)[list(self.labels)]  # (18, k): the classes of each label
        allowed = possible @ of_label  # (n, k): labels of which some class is possible
        return np.where(allowed.sum(axis=1) == 1, allowed.argmax(axis=1), UNKNOWN)


def age_groups(years: Integers, cuts: tuple[int, int]) -> Integers:
    """Return the indices into AGES (n,) of ages in years (n,): `labels.age_group` of many."""
    groups: Integers = (years >= cuts[0]).astype(np.int64) + (years >= cuts[1])
    return groups


def possible_classes(
    masks: Integers, genders: Integers, first_groups: Integers, last_groups: Integers
) -> NDArray[np.bool_]:
    """Return which of the 18 classes photos may have by what is known of them, (n, 18).

    Args:
        masks, genders: (n,) indices into MASKS and GENDERS, or UNKNOWN.
        first_groups, last_groups: (n,) indices into AGES: the youngest and the oldest group that the person may be in.
    """
    mask, gender, age = np.array([decode(class_) for class_ in range(N_CLASSES)]).T  # (18,) each
    fits_mask, fits_gender = (
        (known[:, None] == UNKNOWN) | (known[:, None] == of_class)
        for known, of_class in ((masks, mask), (genders, gender))
    )
    fits_age = (first_groups[:, None] <= age) & (age <= last_groups[:, None])
    possible: NDArray[np.bool_] = fits_mask & fits_gender & fits_age
    return possible


def _task(name: str, label_names: tuple[str, ...], label: Callable[[Attributes], int]) -> Task:
    return Task(name, label_names, tuple(int(label(decode(c))) for c in range(N_CLASSES)))


_ALL = (
    _task("classes", CLASS_NAMES, lambda a: 6 * a.mask + 3 * a.gender + a.age),
    _task("mask3", MASKS, lambda a: a.mask),
    _task("gender2", GENDERS, lambda a: a.gender),
    _task("age3", AGES, lambda a: a.age),
    _task("worn", ("not worn", "worn"), lambda a: a.mask != 2),
    _task("correct", ("not correct", "correct"), lambda a: a.mask == 0),
    _task("under_30", ("30 or older", "under 30"), lambda a: a.age == 0),
    _task("over_59", ("59 or younger", "over 59"), lambda a: a.age == 2),
    _task(
        "gender_under_30",
        ("male, 30 or older", "male, under 30", "female, 30 or older", "female, under 30"),
        lambda a: 2 * a.gender + (a.age == 0),
    ),
)
TASKS = {task.name: task for task in _ALL}


def task(name: str) -> Task:
    """Return the task of that name. Raises CallError for an unknown one, listing the tasks."""
    if name not in TASKS:
        raise CallError(f"There is no task {name!r}. Tasks: {', '.join(TASKS)}.")
    return TASKS[name]
