"""How good an answer is: macro F1 over the 18 classes, accuracy, and F1 of each base task and each class.

Macro F1 is the mean over the classes that occur in the truth. On contest data those are all 18; on fewer people
(a small validation part, one person) a class that nobody has could only ever count as 0, whatever the classifier
says, and scores would hang on who happens to be there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from maskcls.tasks import task

BASE_TASKS = ("mask3", "gender2", "age3")


@dataclass(frozen=True)
class Scores:
    """What `n` answers are worth; every F1 and the accuracy lie in 0..1."""

    n: int
    f1: float
    accuracy: float
    task_f1: dict[str, float]
    """Macro F1 of the joined answer's label under each of BASE_TASKS."""
    class_f1: tuple[float, ...]
    """18 numbers; nan for a class that does not occur in the truth."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: nan, which JSON has not, becomes None."""
        return {**asdict(self), "class_f1": [None if math.isnan(f1) else f1 for f1 in self.class_f1]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """The inverse of `to_dict`."""
        return cls(**{**values, "class_f1": tuple(math.nan if f1 is None else float(f1) for f1 in values["class_f1"])})


UNSCORED = Scores(n=0, f1=math.nan, accuracy=math.nan, task_f1={}, class_f1=(math.nan,) * N_CLASSES)
"""Of nothing: what a fit without validation people has of its epochs."""


def scores(truth: NDArray[np.integer], answers: NDArray[Any]) -> Scores:
    """Score answers against the truth.

    Args:
        truth: (n,) classes 0..17.
        answers: (n,) classes 0..17, or (n, 18) probabilities or their logarithms, of which the largest is the answer.

    Raises:
        CallError: no photos, shapes that do not fit, or a number outside 0..17.
    """
    truth = np.asarray(truth)
    predicted = (
        answers.argmax(axis=1) if np.ndim(answers) == 2 and np.shape(answers)[1] == N_CLASSES else np.asarray(answers)
    )
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise CallError(
            f"Scores need n > 0 classes and as many answers, (n,) or (n, {N_CLASSES}), "
            f"but got shapes {truth.shape} and {np.shape(answers)}."
        )
    for name, classes in (("truth", truth), ("answers", predicted)):
        if classes.min() < 0 or classes.max() >= N_CLASSES:
            raise CallError(f"Classes are 0..{N_CLASSES - 1}, but the {name} hold {classes.min()}..{classes.max()}.")
    class_f1 = _label_f1(truth, predicted, N_CLASSES)
    return Scores(
        n=len(truth),
        f1=float(np.nanmean(class_f1)),
        accuracy=float((truth == predicted).mean()),
        task_f1={name: _task_f1(name, truth, predicted) for name in BASE_TASKS},
        class_f1=tuple(class_f1.tolist()),
    )


def _task_f1(name: str, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> float:
    task_ = task(name)
    return float(np.nanmean(_label_f1(task_.of(truth), task_.of(predicted), task_.n_labels)))


def _label_f1(truth: NDArray[np.integer], predicted: NDArray[np.integer], n_labels: int) -> NDArray[np.float64]:
    """(n_labels,) F1 of each label, nan where it does not occur in the truth."""
    occurring = np.unique(truth)
    f1 = np.full(n_labels, np.nan)
    f1[occurring] = f1_score(truth, predicted, labels=occurring, average=None, zero_division=0)
    return f1
