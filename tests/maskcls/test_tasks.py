"""Every task against what its name says of each of the 18 classes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from maskcls.errors import CallError
from maskcls.labels import AGES, CLASS_NAMES, GENDERS, MASKS, N_CLASSES, UNKNOWN, Attributes, decode
from maskcls.tasks import TASKS, Task, age_groups, possible_classes, task

EXPECTED: dict[str, Callable[[Attributes], str]] = {
    "classes": lambda a: f"{MASKS[a.mask]}, {GENDERS[a.gender]}, {AGES[a.age]}",
    "mask3": lambda a: MASKS[a.mask],
    "gender2": lambda a: GENDERS[a.gender],
    "age3": lambda a: AGES[a.age],
    "worn": lambda a: "worn" if MASKS[a.mask] in ("worn", "incorrect") else "not worn",
    "correct": lambda a: "correct" if MASKS[a.mask] == "worn" else "not correct",
    "under_30": lambda a: "under 30" if AGES[a.age] == "under 30" else "30 or older",
    "over_59": lambda a: "over 59" if AGES[a.age] == "over 59" else "59 or younger",
    "gender_under_30": lambda a: f"{GENDERS[a.gender]}, {'under 30' if AGES[a.age] == 'under 30' else '30 or older'}",
}


def test_every_task_is_expected() -> None:
    assert set(TASKS) == set(EXPECTED)
    assert len(TASKS) == 9


@pytest.mark.parametrize("name", EXPECTED)
def test_each_class_has_the_label_that_its_name_says(name: str) -> None:
    t = task(name)
    assert [t.label_names[t.labels[c]] for c in range(N_CLASSES)] == [
        EXPECTED[name](decode(c)) for c in range(N_CLASSES)
    ]


def test_which_tasks_hang_on_the_age() -> None:
    assert {name for name in TASKS if task(name).depends_on_age} == {
        "classes",
        "age3",
        "under_30",
        "over_59",
        "gender_under_30",
    }


def test_labels_of_an_array_keep_its_shape() -> None:
    assert task("mask3").of(np.array([[0, 6], [12, 17]])).tolist() == [[0, 1], [2, 2]]


def test_an_unknown_class_has_an_unknown_label() -> None:
    """Not that of the last class, at which -1 would point."""
    for name in TASKS:
        assert task(name).of(np.array([0, UNKNOWN])).tolist() == [task(name).labels[0], UNKNOWN]


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_known_gives_a_label_where_all_classes_that_fit_have_the_same(name: str) -> None:
    """All 4 x 3 x 6 states of knowledge: each attribute known or not, the age group also between two neighbours."""
    spans = [(0, 0), (1, 1), (2, 2), (0, 2), (0, 1), (1, 2)]
    known = list(product(range(UNKNOWN, 3), range(UNKNOWN, 2), spans))
    masks, genders = (np.array([one[at] for one in known]) for at in (0, 1))
    first, last = np.array([span for _, _, span in known]).T
    labels = task(name).of_possible(possible_classes(masks, genders, first, last))
    for (mask, gender, (youngest, oldest)), label in zip(known, labels.tolist(), strict=True):
        names = {
            EXPECTED[name](Attributes(m, g, a))
            for m, g, a in map(decode, range(N_CLASSES))
            if mask in (m, UNKNOWN) and gender in (g, UNKNOWN) and youngest <= a <= oldest
        }
        assert (UNKNOWN if len(names) > 1 else task(name).label_names.index(names.pop())) == label


def test_age_groups_of_many_ages() -> None:
    assert age_groups(np.array([0, 29, 30, 59, 60, 99]), (30, 60)).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_task_must_label_all_classes_and_use_all_labels() -> None:
    with pytest.raises(CallError, match="18 classes expected, got 2"):
        Task("short", ("a", "b"), (0, 1))
    with pytest.raises(CallError, match=r"every label 0\.\.1 must be used, got \[0\]"):
        Task("lame", ("a", "b"), (0,) * 18)


def test_an_unknown_task_is_reported_what_there_is() -> None:
    with pytest.raises(CallError, match="no task 'mask4'.*mask3, gender2"):
        task("mask4")
    assert task("classes").label_names == CLASS_NAMES
