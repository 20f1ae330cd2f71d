"""TaskSplit: the tasks that one classifier is cut into, its members, and the join of their answers into 18 classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.tasks import Task, task

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TaskSplit:
    """A name and its members' tasks, in the order in which their answers are joined."""

    name: str
    tasks: tuple[Task, ...]

    def join(self, log_probabilities: Sequence[Array]) -> Array:
        """log p(c) = sum over members of log p_m(label_m(c)), normalised over the 18 classes.

        Args:
            log_probabilities: for each member an array (n, k_m) of log probabilities.

        Returns:
            (n, 18) log probabilities whose exponentials sum to one.
        """
        if len(log_probabilities) != len(self.tasks):
            raise CallError(f"Task split {self.name}: {len(self.tasks)} members' answers expected, got {len(log_probabilities)}.")
        joined: Array = np.sum(
            [np.asarray(logp, np.float64)[:, list(t.labels)] for t, logp in zip(self.tasks, log_probabilities, strict=True)],
            axis=0,
        )  # (n, 18)
        joined -= np.logaddexp.reduce(joined, axis=1, keepdims=True)
        return joined


_ALL = (
    TaskSplit("single", (task("classes"),)),
    TaskSplit("three", (task("mask3"), task("gender2"), task("age3"))),
)
TASK_SPLITS = {split.name: split for split in _ALL}


def task_split(name: str) -> TaskSplit:
    """The task split of that name. Raises CallError listing the names there are."""
    if name not in TASK_SPLITS:
        raise CallError(f"There is no task split {name!r}. Task splits: {', '.join(TASK_SPLITS)}.")
    return TASK_SPLITS[name]
