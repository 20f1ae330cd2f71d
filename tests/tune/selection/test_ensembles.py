"""Greedy selection against brute force, and the comparison on people by whom nothing was selected."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import f1_score

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from tune.selection.ensembles import Library, best_single, compare_on_left_out, ensemble_weights, select_ensemble

PHOTOS_A_PERSON = 7


def made(answers: np.ndarray, truth: np.ndarray, repeat: np.ndarray, part: np.ndarray | None = None) -> Library:
    """Of (K, n, 18) probabilities; a person has seven photos in a row."""
    person = np.arange(len(truth)) // PHOTOS_A_PERSON
    return Library(answers, truth, repeat, repeat if part is None else part, person, person % 6)


def random_library(seed: int, k: int = 4, n: int = 84, repeats: int = 3) -> Library:
    """Candidates that are right more often than not, each in its own way."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, N_CLASSES, n)
    logits = generator.normal(0, 1.0, (k, n, N_CLASSES))
    logits[:, np.arange(n), truth] += generator.uniform(0.5, 2.0, (k, 1))
    answers = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return made(answers, truth, np.arange(n) * repeats // n)


def scored(library: Library, taken: tuple[int, ...]) -> tuple[float, float]:
    """What is maximised, written out again: mean over the repeats of scikit-learn's macro F1; and less the log loss."""
    mean = library.probabilities[list(taken)].mean(0)
    f1s = []
    for number in np.unique(library.repeat):
        rows = library.repeat == number
        truth = library.truth[rows]
        f1s.append(f1_score(truth, mean[rows].argmax(1), labels=np.unique(truth), average="macro", zero_division=0))
    return round(float(np.mean(f1s)), 9), float(np.log(mean[np.arange(len(mean)), library.truth]).mean())


def greedy(library: Library, size: int) -> tuple[int, ...]:
    """The best of the greedy path, by trying all that a step may take."""
    path: list[tuple[int, ...]] = [()]
    for _ in range(size):
        path.append(
            max(((*path[-1], k) for k in range(len(library.probabilities))), key=lambda taken: scored(library, taken))
        )
    return max(path[1:], key=lambda taken: scored(library, taken))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(8))
def test_it_takes_what_trying_every_step_takes(seed: int, size: int) -> None:
    library = random_library(seed)
    expected = greedy(library, size)
    assert select_ensemble(library, size).tolist() == np.bincount(expected, minlength=4).tolist()
    assert library.f1(ensemble_weights(select_ensemble(library, size))) == pytest.approx(
        scored(library, expected)[0], abs=1e-9
    )


@pytest.mark.parametrize("seed", range(20))
def test_it_never_scores_below_the_best_candidate_nor_above_the_best_of_all_ensembles(seed: int) -> None:
    library = random_library(seed, k=3)
    found = library.f1(ensemble_weights(select_ensemble(library, 4)))
    alone = [scored(library, (k,))[0] for k in range(3)]
    everything = [
        scored(library, taken)[0] for n in range(1, 5) for taken in itertools.combinations_with_replacement(range(3), n)
    ]
    assert max(alone) - 1e-9 <= found <= max(everything) + 1e-9
    assert alone[best_single(library)] == max(alone)


def test_a_larger_size_never_scores_lower() -> None:
    for seed in range(10):
        library = random_library(seed)
        found = [library.f1(ensemble_weights(select_ensemble(library, size))) for size in range(1, 9)]
        assert found == sorted(found)


def test_of_equal_f1_the_lower_log_loss_is_taken_and_of_twins_the_first() -> None:
    truth = np.arange(36) % N_CLASSES
    sure, unsure = (np.eye(N_CLASSES)[truth] * height + (1 - height) / N_CLASSES for height in (0.9, 0.5))
    assert select_ensemble(made(np.stack([unsure, sure, sure]), truth, truth % 2), 3).tolist() == [0, 1, 0]


def test_a_candidate_with_zeros_as_a_hard_join_gives_them_can_be_scored() -> None:
    truth = np.arange(36) % N_CLASSES
    wrong = np.eye(N_CLASSES)[(truth + 1) % N_CLASSES]
    taken = select_ensemble(made(np.stack([wrong, np.eye(N_CLASSES)[truth]]), truth, truth % 2), 3)
    assert taken.tolist() == [0, 1]


def quarrel(seed: int, people: int, *, helpful: bool) -> Library:
    """Three candidates, four folds.

    `helpful`: each errs, half-heartedly, on a third of the photos of its own, so that any two outvote it. Else the
    first one knows, and the others are noise.
    """
    generator = np.random.default_rng(seed)
    n = people * PHOTOS_A_PERSON
    truth = generator.integers(0, N_CLASSES, n)
    right = np.eye(N_CLASSES)[truth]
    if helpful:
        errs = generator.integers(0, 3, n)
        wrong = np.eye(N_CLASSES)[(truth + generator.integers(1, N_CLASSES, n)) % N_CLASSES]
        answers = np.stack([np.where((errs == k)[:, None], 0.6 * wrong + 0.4 * right, right) for k in range(3)])
    else:
        noise = generator.dirichlet(np.ones(N_CLASSES), (2, n))
        answers = np.concatenate([(0.8 * right + 0.2 / N_CLASSES)[None], noise])
        lapses = generator.random(n) < 0.2
        answers[0, lapses] = generator.dirichlet(np.ones(N_CLASSES), lapses.sum())
    return made(answers, truth, np.arange(n) // PHOTOS_A_PERSON * 4 // people)


def test_candidates_that_err_on_different_photos_pay_together() -> None:
    library = quarrel(0, 60, helpful=True)
    assert (select_ensemble(library, 6) > 0).sum() >= 2
    found = compare_on_left_out(library, 6)
    assert found.single == pytest.approx(2 / 3, abs=0.05)
    assert found.ensemble > 0.95
    assert found.difference.mean == pytest.approx(found.ensemble - found.single)
    assert (found.pays, found.difference.verdict, found.difference.n) == (True, "better", 4)


def test_noise_beside_a_candidate_that_knows_does_not_pay() -> None:
    """By the people it was selected by it always looks as good or better; that is why others decide."""
    own = [quarrel(seed, 24, helpful=False) for seed in range(12)]
    gains = [
        library.f1(ensemble_weights(select_ensemble(library, 10))) - library.f1(np.eye(3)[best_single(library)])
        for library in own
    ]
    assert min(gains) >= 0
    assert np.mean(gains) > 0.01
    found = [compare_on_left_out(library, 10) for library in own]
    assert np.mean([one.difference.mean for one in found]) < 0
    assert sum(one.difference.verdict == "better" for one in found) <= 1
    assert not all(one.pays for one in found)


def test_each_part_is_answered_by_what_the_other_parts_select() -> None:
    library = random_library(3, k=3, n=168)
    parts = [library.rows(library.part != part) for part in range(3)]
    selected = [ensemble_weights(select_ensemble(part, 5)) for part in parts]
    expected = np.empty(len(library.truth), np.int64)
    for part, weights in enumerate(selected):
        here = library.part == part
        expected[here] = np.tensordot(weights, library.probabilities[:, here], 1).argmax(1)
    f1s = [
        f1_score(
            library.truth[rows], expected[rows], labels=np.unique(library.truth[rows]), average="macro", zero_division=0
        )
        for rows in (library.repeat == number for number in range(3))
    ]
    assert compare_on_left_out(library, 5).ensemble == pytest.approx(np.mean(f1s))


def test_seeds_that_answer_the_same_people_leave_out_parts_of_them() -> None:
    """Two seeds, three parts: each seed is a repeat with all people in it, each answered by what the other parts
    selected."""
    one = quarrel(1, 30, helpful=True)
    part = one.person % 3
    answers = np.concatenate([one.probabilities, one.probabilities[[1, 2, 0]]], axis=1)
    twice = [np.tile(values, 2) for values in (one.truth, part, one.person, one.stratum)]
    seeds = np.repeat([0, 1], len(one.truth))
    found = compare_on_left_out(Library(answers, twice[0], seeds, twice[1], twice[2], twice[3]), 6)
    assert found.difference.n == 2
    assert found.pays
    alone = compare_on_left_out(
        Library(one.probabilities, one.truth, np.zeros_like(part), part, one.person, one.stratum), 6
    )
    assert (alone.difference.n, alone.difference.verdict) == (1, "can't tell")
    assert np.isnan(alone.difference.low)


def test_what_cannot_be_selected_from_is_refused() -> None:
    library = random_library(0)
    with pytest.raises(CallError, match=r"An ensemble's size must be at least 1, but got 0\."):
        select_ensemble(library, 0)
    with pytest.raises(CallError, match=r"An ensemble needs at least two candidates, but got 1\."):
        made(library.probabilities[:1], library.truth, library.repeat)
    with pytest.raises(
        CallError,
        match=r"Probabilities \(K, n, 18\) and five arrays \(n,\) with n > 0 are expected, but got \(4, 84, 17\)",
    ):
        made(library.probabilities[:, :, 1:], library.truth, library.repeat)
    with pytest.raises(CallError, match="needs at least two parts of the people, one to select by and one to score"):
        compare_on_left_out(
            made(library.probabilities, library.truth, library.repeat, np.zeros_like(library.repeat)), 3
        )
