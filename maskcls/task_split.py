"""Task splits: the tasks that one classifier is divided into, and the joins of their predictions into 18 classes."""

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
    """The tasks that each of a classifier's models learns (one, or several on a shared backbone), by a name.

    The members are the models' tasks in order; together they distinguish all 18 classes.
    """

    name: str
    models: tuple[tuple[Task, ...], ...]
    advisers: tuple[Task, ...] = ()
    """Members that are asked first, and so overrule the others, under the hard join."""

    def __post_init__(self) -> None:
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names) or not set(self.advisers) <= set(self.tasks):
            raise CallError(
                f"Task split {self.name}: each member once, and advisers among them, expected, "
                f"but got {', '.join(names)}."
            )
        distinct = {tuple(task.labels[class_] for task in self.tasks) for class_ in range(N_CLASSES)}
        if len(distinct) != N_CLASSES:
            raise CallError(
                f"Task split {self.name}: its members distinguish only {len(distinct)} of {N_CLASSES} classes."
            )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The members' tasks, in the order in which their predictions are joined."""
        return tuple(task for tasks in self.models for task in tasks)

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names, which are those of their tasks."""
        return tuple(task.name for task in self.tasks)

    @property
    def shared(self) -> bool:
        """Whether some members are heads of one backbone."""
        return any(len(tasks) > 1 for tasks in self.models)

    def join(self, log_probabilities: Sequence[Array], rule: str = "soft") -> Array:
        """Join the members' predictions to (n, 18) log probabilities, whose exponentials sum to one per row.

        Args:
            log_probabilities: an array (n, k_m) of log probabilities for each member.
            rule: a key of JOINS.

        Raises CallError for another rule, or another number of members.
        """
        if rule not in JOINS:
            raise CallError(f"There is no join {rule!r}. Joins: {', '.join(JOINS)}.")
        if len(log_probabilities) != len(self.tasks):
            raise CallError(
                f"Task split {self.name}: {len(self.tasks)} members' predictions expected, "
                f"got {len(log_probabilities)}."
            )
        members = [np.asarray(member, np.float64) for member in log_probabilities]
        with np.errstate(invalid="ignore"):
            joined = JOINS[rule](self, members)  # (n, 18)
        # A hard join would make a class of it, and nobody would see that a member has no answer.
        joined[np.any([np.isnan(member).any(axis=1) for member in members], axis=0)] = np.nan
        return joined


def soft_join(split: TaskSplit, log_probs: Sequence[Array]) -> Array:
    """Sum the members' log probabilities: log p(c) = sum over members of log p_m(label_m(c)), normalised over c."""
    joined: Array = np.sum(
        [member[:, list(t.labels)] for t, member in zip(split.tasks, log_probs, strict=True)], axis=0
    )  # (n, 18)
    joined -= np.logaddexp.reduce(joined, axis=1, keepdims=True)
    return joined


def hard_join(split: TaskSplit, log_probs: Sequence[Array]) -> Array:
    """Decide by one member after the other, advisers first, each for its most likely label that is still possible.

    This is the contest project's rule. The result is a decision: the class that is left has probability one, the
    others have zero.
    """
    n = len(log_probs[0])
    possible = np.ones((n, N_CLASSES), bool)  # (n, 18)
    pairs = list(zip(split.tasks, log_probs, strict=True))
    for t, member in sorted(pairs, key=lambda pair: pair[0] not in split.advisers):
        of_label = np.eye(t.n_labels, dtype=bool)[list(t.labels)]  # (18, k): the classes of each label
        allowed = possible @ of_label  # (n, k): labels of which some class is still possible
        chosen = np.where(allowed, member, -np.inf).argmax(axis=1)  # (n,)
        # If a member gives probability 0 to every label that is still possible, the first of them is as good as any.
        chosen = np.where(allowed[np.arange(n), chosen], chosen, allowed.argmax(axis=1))
        possible &= of_label[:, chosen].T
    return np.where(possible, 0.0, -np.inf)


JOINS: dict[str, Callable[[TaskSplit, Sequence[Array]], Array]] = {"soft": soft_join, "hard": hard_join}


def _split(name: str, *tasks: str, advisers: tuple[str, ...] = ()) -> TaskSplit:
    """Return a split in which each task has its own model."""
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
    """Return the task split of that name. Raises CallError for an unknown one, listing the splits."""
    if name not in TASK_SPLITS:
        raise CallError(f"There is no task split {name!r}. Task splits: {', '.join(TASK_SPLITS)}.")
    return TASK_SPLITS[name]
