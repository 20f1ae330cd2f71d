"""What every task split must keep: the conformance suite of the join."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from maskcls.task_split import TASK_SPLITS, TaskSplit, task_split
from maskcls.tasks import task

SPLITS = list(TASK_SPLITS.values())


def test_the_suite_covers_every_split() -> None:
    assert [split.name for split in SPLITS] == ["single", "three"]


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
@given(st.integers(0, 2**32 - 1))
def test_joined_probabilities_sum_to_one(split: TaskSplit, seed: int) -> None:
    logits = [np.random.default_rng(seed).normal(0, 5, (7, t.n_labels)) for t in split.tasks]
    answers = [x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in logits]
    joined = split.join(answers)
    assert joined.shape == (7, N_CLASSES)
    np.testing.assert_allclose(np.exp(joined).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
def test_perfect_members_give_the_perfect_class(split: TaskSplit) -> None:
    classes = np.arange(N_CLASSES)
    answers = [np.log(np.where(np.eye(t.n_labels)[t.of(classes)] == 1, 0.99, 0.01 / (t.n_labels - 1))) for t in split.tasks]
    assert split.join(answers).argmax(axis=1).tolist() == classes.tolist()


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
def test_certain_members_are_joined_without_overflow(split: TaskSplit) -> None:
    answers = [np.where(np.arange(t.n_labels) == t.labels[5], 0.0, -1e4)[None] for t in split.tasks]
    assert split.join(answers).argmax() == 5
    assert np.isfinite(split.join(answers)).all()


def test_the_join_multiplies_what_members_say() -> None:
    mask, gender, age = np.array([[0.7, 0.2, 0.1]]), np.array([[0.4, 0.6]]), np.array([[0.5, 0.3, 0.2]])
    joined = np.exp(task_split("three").join([np.log(mask), np.log(gender), np.log(age)]))
    np.testing.assert_allclose(joined, np.einsum("nm,ng,na->nmga", mask, gender, age).reshape(1, 18), rtol=1e-12)


def test_single_is_what_its_member_says() -> None:
    answer = np.log(np.random.default_rng(0).dirichlet(np.ones(N_CLASSES), 4))
    np.testing.assert_allclose(task_split("single").join([answer]), answer, rtol=1e-12)


def test_a_missing_member_is_noticed() -> None:
    with pytest.raises(CallError, match="three: 3 members' answers expected, got 1"):
        task_split("three").join([np.zeros((1, 3))])


def test_an_unknown_split_is_told_what_there_is() -> None:
    with pytest.raises(CallError, match="no task split 'four'.*single, three"):
        task_split("four")
    assert task_split("three").tasks == (task("mask3"), task("gender2"), task("age3"))
