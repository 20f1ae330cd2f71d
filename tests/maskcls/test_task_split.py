"""The conformance suite of task splits, under both joins: from labels to a bundle that predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from maskcls.serving.export import Trained, write_bundle
from maskcls.serving.predictor import Predictor
from maskcls.task_split import JOINS, TASK_SPLITS, TaskSplit, task_split
from maskcls.tasks import Task, task
from maskcls.training.fit import Fit
from maskcls.training.metrics import scores
from tests.maskcls.training.small import RECIPE, data

SPLITS = list(TASK_SPLITS.values())
# (members, models) of each split, as DESIGN's list has them.
SIZES = {
    "single": (1, 1),
    "five_binary": (5, 5),
    "mask_gender_ages": (4, 4),
    "mask_genderage": (3, 3),
    "three": (3, 3),
    "advised": (3, 3),
    "shared_heads": (3, 1),
}
every_split = pytest.mark.parametrize("split", SPLITS, ids=lambda split: split.name)
every_join = pytest.mark.parametrize("rule", JOINS)


def drawn(split: TaskSplit, seed: int, n: int = 7) -> list[np.ndarray]:
    logits = [np.random.default_rng(seed + i).normal(0, 5, (n, t.n_labels)) for i, t in enumerate(split.tasks)]
    return [x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in logits]


def certain(task: Task, classes: np.ndarray, doubt: float = 0.01) -> np.ndarray:
    """Log probabilities of a member that knows these classes."""
    return np.log(np.where(np.eye(task.n_labels)[task.of(classes)] == 1, 1 - doubt, doubt / (task.n_labels - 1)))


def test_the_suite_covers_every_split_and_join() -> None:
    assert {split.name: (len(split.members), len(split.models)) for split in SPLITS} == SIZES
    assert len(SPLITS) == 7
    assert list(JOINS) == ["soft", "hard"]


@every_split
@every_join
@given(seed=st.integers(0, 2**31))
def test_joined_probabilities_sum_to_one(split: TaskSplit, rule: str, seed: int) -> None:
    joined = split.join(drawn(split, seed), rule)
    assert joined.shape == (7, N_CLASSES)
    np.testing.assert_allclose(np.exp(joined).sum(axis=1), 1, rtol=1e-12)


@every_split
@every_join
def test_perfect_members_give_the_perfect_class(split: TaskSplit, rule: str) -> None:
    classes = np.arange(N_CLASSES)
    assert split.join([certain(t, classes) for t in split.tasks], rule).argmax(axis=1).tolist() == classes.tolist()


@every_split
@every_join
def test_certain_members_are_joined_without_overflow(split: TaskSplit, rule: str) -> None:
    answers = [np.where(np.arange(t.n_labels) == t.labels[5], 0.0, -1e4)[None] for t in split.tasks]
    joined = split.join(answers, rule)
    assert joined.argmax() == 5
    assert not np.isnan(joined).any()


@every_split
@given(seed=st.integers(0, 2**31))
def test_the_hard_join_is_its_rule_photo_by_photo(split: TaskSplit, seed: int) -> None:
    """The rule written out once more: one member after the other, advisers first, among what is still possible."""
    answers = drawn(split, seed)
    order = [*split.advisers, *(t for t in split.tasks if t not in split.advisers)]
    for photo, joined in enumerate(split.join(answers, "hard")):
        possible = list(range(N_CLASSES))
        for t in order:
            answer = answers[split.tasks.index(t)][photo]
            label = max({t.labels[c] for c in possible}, key=lambda label: answer[label])
            possible = [c for c in possible if t.labels[c] == label]
        assert [c for c in range(N_CLASSES) if joined[c] == 0] == possible


def test_advisers_overrule_the_eighteen_classes() -> None:
    """The 18 classes are sure of class 0 (worn, male, under 30); the advisers just prefer not worn and female."""
    classes = certain(task("classes"), np.array([0]), 1e-6)
    mask, gender = np.log([[0.3, 0.3, 0.4]]), np.log([[0.4, 0.6]])
    assert task_split("advised").join([classes, mask, gender], "hard").argmax() in (15, 16, 17)
    assert task_split("advised").join([classes, mask, gender], "soft").argmax() == 0


def test_the_soft_join_multiplies_what_members_say() -> None:
    mask, gender, age = np.array([[0.7, 0.2, 0.1]]), np.array([[0.4, 0.6]]), np.array([[0.5, 0.3, 0.2]])
    joined = np.exp(task_split("three").join([np.log(mask), np.log(gender), np.log(age)]))
    np.testing.assert_allclose(joined, np.einsum("nm,ng,na->nmga", mask, gender, age).reshape(1, 18), rtol=1e-12)


def test_single_is_what_its_member_says() -> None:
    answer = np.log(np.random.default_rng(0).dirichlet(np.ones(N_CLASSES), 4))
    np.testing.assert_allclose(task_split("single").join([answer]), answer, rtol=1e-12)


@every_split
def test_a_members_numbering_in_training_is_its_numbering_in_joining(split: TaskSplit) -> None:
    """Members that predict their own training labels give the photos' classes. The contest project's did not."""
    fit = Fit(RECIPE.override({"task_split": split.name}), data())
    losses: list[Any] = [loss for model_fit in fit.model_fits for loss in model_fit.head_losses]
    trained = [loss.labels.numpy() for loss in losses]
    answers = [
        np.log(np.eye(t.n_labels)[labels] * 0.9 + 0.1 / t.n_labels)
        for t, labels in zip(split.tasks, trained, strict=True)
    ]
    for rule in JOINS:
        assert split.join(answers, rule).argmax(axis=1).tolist() == fit.data.labels[fit.data.train].tolist()


@every_split
@every_join
def test_a_trained_bundle_predicts_what_validation_saw(split: TaskSplit, rule: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = RECIPE.override({"task_split": split.name, "join": rule, "epochs": 1, "frozen_stages": 4})
    fit = Fit(recipe, data())
    (result,) = fit.epochs()
    rows = fit.data.validation
    expected = np.exp(fit.log_probs(rows))
    assert scores(fit.data.labels[rows], expected).f1 == result.validation_f1
    trained = Trained(recipe, fit.best_states())
    write_bundle(
        tmp_path / "b", [trained], result.scores.to_dict(), data_digest="d", split_digest="s", seen_people=["Ann"]
    )
    predictor = Predictor(tmp_path / "b", "cpu")
    (classifier,) = predictor.bundle.classifiers
    assert (classifier.task_split, len(classifier.models)) == (split, SIZES[split.name][1])
    assert np.array_equal(predictor.probabilities(list(fit.data.pixels[rows])), expected)


@pytest.mark.slow
def test_a_bundle_of_all_that_a_model_may_have_predicts_too(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    own = {"members.age3.backbone": "resnet18", "members.age3.head": "linear", "members.age3.age_regression": 0.5}
    recipe = RECIPE.override({"ema_decay": 0.9, "epochs": 1, **own})
    fit = Fit(recipe, data())
    list(fit.epochs())
    trained = Trained(recipe, fit.best_states())
    write_bundle(tmp_path / "b", [trained], {}, data_digest="d", split_digest="s", seen_people=["Ann"])
    rows = fit.data.validation
    assert np.array_equal(
        Predictor(tmp_path / "b", "cpu").probabilities(list(fit.data.pixels[rows])), np.exp(fit.log_probs(rows))
    )


def test_a_missing_member_is_noticed() -> None:
    with pytest.raises(CallError, match="three: 3 members' predictions expected, got 1"):
        task_split("three").join([np.zeros((1, 3))])


def test_unknown_names_are_reported_what_there_is() -> None:
    with pytest.raises(CallError, match="no task split 'four'.*single, five_binary, .*, shared_heads"):
        task_split("four")
    with pytest.raises(CallError, match="no join 'vote'. Joins: soft, hard"):
        task_split("three").join([np.zeros((1, 3)), np.zeros((1, 2)), np.zeros((1, 3))], "vote")


def test_a_split_must_tell_the_classes_apart() -> None:
    with pytest.raises(CallError, match="ageless: its members distinguish only 6 of 18 classes"):
        TaskSplit("ageless", ((task("mask3"),), (task("gender2"),)))
    with pytest.raises(CallError, match="twice: each member once"):
        TaskSplit("twice", ((task("classes"),), (task("classes"),)))


@every_join
def test_a_member_that_is_not_a_number_is_no_answer_under_either_join(rule: str) -> None:
    split = task_split("three")
    members = drawn(split, 0)
    members[1][2, 0] = np.nan
    joined = split.join(members, rule)
    assert np.isnan(joined[2]).all(), "a hard join would have decided for a class"
    assert not np.isnan(np.delete(joined, 2, axis=0)).any()
