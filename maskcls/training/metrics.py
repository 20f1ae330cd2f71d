"""How good predictions are: macro F1 over the 18 classes, accuracy, and F1 of each base task and each class.

Macro F1 is the mean over the classes that occur in the truth. On contest data those are all 18. On fewer people (a
small validation part, one person) a class that nobody has could only count as 0, whatever the classifier predicts,
and scores would depend on who happens to be there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.files import share_of
from maskcls.labels import N_CLASSES, UNKNOWN
from maskcls.tasks import task

Floats = NDArray[np.float64]

BASE_TASKS = ("mask3", "gender2", "age3")


@dataclass(frozen=True)
class Scores:
    """Scores of `n` predictions, of photos whose class is known; every F1 and the accuracy lie in 0..1."""

    n: int
    f1: float
    accuracy: float
    task_f1: dict[str, float]
    """By name of each of BASE_TASKS, macro F1 of the predicted class's label."""
    class_f1: tuple[float, ...]
    """18 numbers; nan for a class that does not occur in the truth."""

    def to_dict(self) -> dict[str, Any]:
        """The scores, ready for JSON: nan, which JSON does not have, becomes None."""
        return {**asdict(self), "class_f1": [None if math.isnan(f1) else f1 for f1 in self.class_f1]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """The inverse of `to_dict`. Raises ValueError, KeyError or TypeError where these are no scores."""
        numbers = {name: _share(values[name]) for name in ("f1", "accuracy")}
        of_tasks = {name: _share(f1) for name, f1 in dict(values["task_f1"]).items()}
        of_classes = tuple(_share(f1) for f1 in values["class_f1"])
        return cls(**{**values, **numbers, "task_f1": of_tasks, "class_f1": of_classes})


def _share(value: object) -> float:
    """A score as it was written: within 0 and 1, or nan, which JSON has as null. Raises ValueError."""
    return math.nan if value is None or (isinstance(value, float) and math.isnan(value)) else share_of(value)


UNSCORED = Scores(n=0, f1=math.nan, accuracy=math.nan, task_f1={}, class_f1=(math.nan,) * N_CLASSES)
"""The scores of an epoch without validation people."""


def scores(truth: NDArray[np.integer], predictions: NDArray[Any]) -> Scores:
    """Score predictions against the truth, of the photos whose class is known.

    Args:
        truth: (n,) classes 0..17, or UNKNOWN.
        predictions: (n,) classes 0..17, or (n, 18) probabilities or their logarithms, whose largest is the class.

    Raises CallError if there are no photos of a known class, shapes do not fit, or a class is outside 0..17.
    """
    truth = np.asarray(truth)
    is_distribution = np.ndim(predictions) == 2 and np.shape(predictions)[1] == N_CLASSES
    predicted = predictions.argmax(axis=1) if is_distribution else np.asarray(predictions)  # (n,)
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise CallError(
            f"Scores need n > 0 classes and as many predictions, (n,) or (n, {N_CLASSES}), "
            f"but got shapes {truth.shape} and {np.shape(predictions)}."
        )
    truth, predicted = truth[truth != UNKNOWN], predicted[truth != UNKNOWN]
    if not len(truth):
        raise CallError("Scores need photos of a known class, but mask, gender or age of each photo is not known.")
    for name, classes in (("truth", truth), ("predictions", predicted)):
        if classes.min() < 0 or classes.max() >= N_CLASSES:
            raise CallError(f"Classes are 0..{N_CLASSES - 1}, but the {name} hold {classes.min()}..{classes.max()}.")
    class_f1 = _label_f1(truth, predicted, N_CLASSES)  # (18,)
    return Scores(
        n=len(truth),
        f1=float(np.nanmean(class_f1)),  # over the classes that occur
        accuracy=float((truth == predicted).mean()),
        task_f1={name: _task_f1(name, truth, predicted) for name in BASE_TASKS},
        class_f1=tuple(class_f1.tolist()),
    )


def _task_f1(name: str, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    task_ = task(name)
    return float(np.nanmean(_label_f1(task_.of(truth), task_.of(predicted), task_.n_labels)))


def _label_f1(truth: NDArray[np.integer], predicted: NDArray[np.integer], n_labels: int) -> NDArray[np.float64]:
    """F1 (k,) of each label, nan for one that does not occur in the truth.

    Counted here, because scikit-learn, whose numbers these are to the bit, would be a quarter of a worker's imports.
    """
    occurring, answered, hits = (
        np.bincount(labels, minlength=n_labels)  # (k,)
        for labels in (truth, predicted, truth[truth == predicted])
    )
    f1 = 2 * hits / np.maximum(occurring + answered, 1)  # 2 tp / (2 tp + fp + fn); 1 avoids 0 / 0
    return np.where(occurring > 0, f1, np.nan)


def macro_f1(truth: Floats, predicted: Floats, hits: Floats) -> Floats:
    """Macro F1 from counts per class: the mean over the classes that occur.

    Args:
        truth: (..., 18) photos of each class. Counts may be fractions, as weights of people make them.
        predicted: (..., 18) photos that were predicted to be of the class.
        hits: (..., 18) photos of the class that were predicted to be of it.
    """
    occurs = truth > 0  # (..., 18)
    f1 = 2 * hits / np.where(occurs, truth + predicted, 1.0)  # 2 tp / (2 tp + fp + fn); 1.0 avoids 0 / 0
    total: Floats = np.where(occurs, f1, 0.0).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)  # (...,)
    return total
