"""TaskSplit: the tasks that one classifier is cut into, its members, and the two joins of their answers into 18 classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from maskcls.tasks import Task, task

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TaskSplit:
    """A name, the tasks that each of its models learns (one, or several on a shared backbone), and which members only advise.

    The members are the models' tasks in order; together they tell all 18 classes apart.
    """

    name: str
    models: tuple[tuple[Task, ...], ...]
    advisers: tuple[Task, ...] = ()
    """Members that overrule the others under the hard join."""

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names) or not set(self.advisers) <= set(self.tasks):
            raise CallError(
                f"Task split {self.name}: each member once, and advisers among them, expected, but got {', '.join(names)}."
            )
        told = {tuple(task.labels[class_] for task in self.tasks) for class_ in range(N_CLASSES)}
        if len(told) != N_CLASSES:
            raise CallError(f"Task split {self.name}: its members tell only {len(told)} of {N_CLASSES} classes apart.")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The members' tasks, in the order in which their answers are joined."""
        return tuple(task for tasks in self.models for task in tasks)

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names: those of their tasks."""
        return tuple(task.name for task in self.tasks)

    @property
    def shared(self) -> bool:
        """Whether some members are heads of one backbone."""
        return any(len(tasks) > 1 for tasks in self.models)

    def join(self, log_probabilities: Sequence[Array], rule: str = "soft") -> Array:
        """The members' answers as one, (n, 18) log probabilities whose exponentials sum to one.

        Args:
            log_probabilities: for each member an array (n, k_m) of log probabilities.
            rule: a key of JOINS.

        Raises CallError for another rule, or another number of members.
        """
        if rule not in JOINS:
            raise CallError(f"There is no join {rule!r}. Joins: {', '.join(JOINS)}.")
        if len(log_probabilities) != len(self.tasks):
            raise CallError(
                f"Task split {self.name}: {len(self.tasks)} members' answers expected, got {len(log_probabilities)}."
            )
        return JOINS[rule](self, [np.asarray(answer, np.float64) for answer in log_probabilities])


def soft_join(split: TaskSplit, answers: Sequence[Array]) -> Array:
    """log p(c) = sum over members of log p_m(label_m(c)), normalised over the 18 classes."""
    joined: Array = np.sum(
        [answer[:, list(t.labels)] for t, answer in zip(split.tasks, answers, strict=True)], axis=0
    )  # (n, 18)
    joined -= np.logaddexp.reduce(joined, axis=1, keepdims=True)
    return joined


def hard_join(split: TaskSplit, answers: Sequence[Array]) -> Array:
    """The contest project's rule: one member after the other, advisers first, says its likeliest label of those still possible.

    A decision, so the class that is left has probability one, and the others none.
    """
    n = len(answers[0])
    possible = np.ones((n, N_CLASSES), bool)
    pairs = list(zip(split.tasks, answers, strict=True))
    for t, answer in sorted(pairs, key=lambda pair: pair[0] not in split.advisers):
        of_label = np.eye(t.n_labels, dtype=bool)[list(t.labels)]  # (18, k): the classes of each label
        allowed = possible @ of_label  # (n, k)
        said = np.where(allowed, answer, -np.inf).argmax(axis=1)
        # Where a member rules out all that is left with probability 0, the first label still possible is as good as any.
        said = np.where(allowed[np.arange(n), said], said, allowed.argmax(axis=1))
        possible &= of_label[:, said].T
    return np.where(possible, 0.0, -np.inf)


JOINS: dict[str, Callable[[TaskSplit, Sequence[Array]], Array]] = {"soft": soft_join, "hard": hard_join}


def _split(name: str, *tasks: str, advisers: tuple[str, ...] = ()) -> TaskSplit:
    """A model of its own for each task."""
    return TaskSplit(name, tuple((task(member),) for member in tasks), tuple(task(adviser) for adviser in advisers))


_ALL = (
    _split("single", "classes"),
    _split("five_binary", "worn", "correct", "gender2", "under_30", "over_59"),
    _split("mask_gender_ages", "mask3", "gender2", "under_30", "over_59"),
    _split("mask_genderage", "mask3", "gender_under_30", "over_59"),
    _split("three", "mask3", "gender2", "age3"),
    _split("advised", "classes", "mask3", "gender2", advisers=("mask3", "gender2")),
    TaskSplit("shared_heads", ((task("mask3"), task("gender2"), task("age3")),)),
)
TASK_SPLITS = {split.name: split for split in _ALL}


def task_split(name: str) -> TaskSplit:
    """The task split of that name. Raises CallError listing the names there are."""
    if name not in TASK_SPLITS:
        raise CallError(f"There is no task split {name!r}. Task splits: {', '.join(TASK_SPLITS)}.")
    return TASK_SPLITS[name]
