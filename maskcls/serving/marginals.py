"""Names of the 18 classes' probabilities in tables, and the sums of these over mask, gender and age group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskcls.labels import CLASS_NAMES
from maskcls.tasks import task


def _word(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "_")


PROBABILITY_COLUMNS = tuple(f"p{number}_{_word(name)}" for number, name in enumerate(CLASS_NAMES))
"""`p0_worn_male_under_30` to `p17_not_worn_female_over_59`."""
TASKS = {"mask": "mask3", "gender": "gender2", "age_group": "age3"}
"""What a prediction has probabilities of beside the classes, and the task's name."""
LABELS = tuple((key, label) for key, name in TASKS.items() for label in task(name).label_names)
"""The 8 labels of TASKS, each with what it is a label of."""
MARGINAL_COLUMNS = tuple(f"{key}_{_word(label)}" for key, label in LABELS)
"""`mask_worn` to `age_group_over_59`."""
TO_LABELS = np.concatenate([np.eye(task(name).n_labels)[list(task(name).labels)] for name in TASKS.values()], axis=1)
"""(18, 8): 1 where a class has a label of LABELS, else 0."""


def marginal_table(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum the probabilities (n, 18) of the classes to those of LABELS, (n, 8)."""
    table: NDArray[np.float64] = probabilities @ TO_LABELS
    return table


def marginals(probabilities: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Sum the probabilities (18,) of the classes to those of each label, by its name, for each of TASKS."""
    found: dict[str, dict[str, float]] = {key: {} for key in TASKS}
    for (key, label), value in zip(LABELS, marginal_table(probabilities).tolist(), strict=True):
        found[key][label] = value
    return found
