"""Greedy ensemble selection with replacement, and whether it pays (Caruana, Niculescu-Mizil, Crew and Ksikes, Ensemble Selection from
Libraries of Models, ICML 2004).

It begins with the best candidate alone. In each step the candidate whose probabilities, averaged with those taken before, score best
is taken, again if need be, up to a size; of the ensembles on that path the best is the answer, so that it never scores below the best
candidate on what it was selected by. A candidate's weight is how often it was taken, as a share.

The score is the mean over the repeats of macro F1, which is what picks a search's winner. Equal scores go by log loss, which tells apart
what F1, that moves in steps, can't; then to what was taken before; then to the candidate that stands first.

A repeat has one fit of each candidate, and its rows are answered by those. So an ensemble is scored as it will be exported, with one
fit a member. Seeds are not averaged: that would be an ensemble of its own, and score as one.

What was selected by some people scores too well on them. So each part of the people is left out in turn: ensemble and best candidate are
selected by the others, and compared on the part (`paired.difference`, over the repeats). Only that decides whether an ensemble pays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from tune.statistics.intervals import macro_f1
from tune.statistics.paired import Difference, Repeat, difference

TIE = 1e-9
"""F1 that differ by less are equal but for rounding."""
LEAST = 1e-15
"""Probabilities below count as this in the log loss, so that a hard join's zeros stay finite."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Library:
    """What K candidates answered. A row is a photo in a repeat, so that a photo may have several; n rows."""

    probabilities: Floats  # (K, n, 18)
    truth: Integers  # (n,) classes 0..17
    repeat: Integers  # (n,) whose fits answered, from 0
    part: Integers  # (n,) the part of the people that it is left out with, from 0; each person in one part alone
    person: NDArray[Any]  # (n,)
    stratum: NDArray[Any]  # (n,) gender x age group of the person

    def __post_init__(self) -> None:
        k, n = self.probabilities.shape[:2]
        if k < 2:
            raise CallError(f"An ensemble needs at least two candidates, but got {k}.")
        arrays = (self.truth, self.repeat, self.part, self.person, self.stratum)
        if not n or self.probabilities.shape != (k, n, N_CLASSES) or any(np.shape(values) != (n,) for values in arrays):
            shapes = ", ".join(str(np.shape(values)) for values in (self.probabilities, *arrays))
            raise CallError(
                f"Probabilities (K, n, {N_CLASSES}) and five arrays (n,) with n > 0 are expected, but got {shapes}."
            )

    def rows(self, kept: NDArray[np.bool_]) -> Library:
        """These rows alone."""
        arrays = (self.truth, self.repeat, self.part, self.person, self.stratum)
        return Library(self.probabilities[:, kept], *(values[kept] for values in arrays))

    def f1(self, weights: Floats) -> float:
        """Mean over the repeats of the macro F1 of the candidates' probabilities, averaged by these weights (K,)."""
        return _Scorer(self).f1(_mean(self.probabilities, weights).argmax(1))


def select_ensemble(library: Library, size: int) -> Integers:
    """(K,): how often each candidate is taken, at most `size` times together; the best ensemble on the greedy path.

    Raises CallError for a size below one.
    """
    if size < 1:
        raise CallError(f"An ensemble's size must be at least 1, but got {size}.")
    scorer = _Scorer(library)
    taken = np.zeros(len(library.probabilities), np.int64)
    summed: Floats = np.zeros(library.probabilities.shape[1:])
    path = []
    for n in range(1, size + 1):
        keys = [
            (*scorer.key((summed + candidate) / n), taken[k] == 0, k)
            for k, candidate in enumerate(library.probabilities)
        ]
        *key, _, best = min(keys)
        taken[best] += 1
        summed = summed + library.probabilities[best]
        path.append((tuple(key), n, taken.copy()))
    return min(path, key=lambda step: step[:2])[2]


def best_single(library: Library) -> int:
    """The candidate that scores best alone, where `select` begins."""
    return int(select_ensemble(library, 1).argmax())


@dataclass(frozen=True)
class LeftOutComparison:
    """The comparison on people by whom nothing was selected."""

    ensemble: float
    """Mean over the repeats of macro F1."""
    single: float
    difference: Difference
    """The ensemble's less the best single candidate's."""

    @property
    def pays(self) -> bool:
        """Whether the ensemble scored higher. The interval says how sure that is; with two candidates left, the higher mean is the
        better bet whether or not it is sure."""
        return self.difference.mean > 0


def compare_on_left_out(library: Library, size: int, seed: int = 0) -> LeftOutComparison:
    """Ensemble and best single candidate, on each part as selected by the others. Raises CallError for fewer than two parts.

    Args:
        seed: of the bootstrap of the people.
    """
    parts = np.unique(library.part)
    if len(parts) < 2:
        raise CallError(
            "Whether an ensemble pays needs at least two parts of the people, one to select by and one to score."
        )
    single, ensemble = np.empty_like(library.truth), np.empty_like(library.truth)
    for part in parts:
        here = library.part == part
        others, scored = library.rows(~here), library.probabilities[:, here]
        single[here] = scored[best_single(others)].argmax(1)
        ensemble[here] = _mean(scored, ensemble_weights(select_ensemble(others, size))).argmax(1)
    repeats = [_repeat(library, single, ensemble, number) for number in np.unique(library.repeat)]
    scorer = _Scorer(library)
    return LeftOutComparison(scorer.f1(ensemble), scorer.f1(single), difference(repeats, seed))


def ensemble_weights(taken: Integers) -> Floats:
    """(K,) weights that sum to one."""
    weights: Floats = taken / taken.sum()
    return weights


class _Scorer:
    """Scores answers to a library's rows."""

    def __init__(self, library: Library) -> None:
        _, repeat = np.unique(library.repeat, return_inverse=True)
        self._rows = np.arange(len(library.truth))
        self._truth, self._offset, self._n = library.truth, repeat * N_CLASSES, int(repeat.max()) + 1
        self._occurring = self._counts(self._truth)

    def f1(self, answers: Integers) -> float:
        """Mean over the repeats of macro F1; answers are (n,) classes."""
        hits = self._counts(answers[answers == self._truth], answers == self._truth)
        return float(macro_f1(self._occurring, self._counts(answers), hits).mean())

    def key(self, probabilities: Floats) -> tuple[int, float]:
        """Smallest for the best: by F1, where it differs by more than rounding, then by log loss."""
        loss = -np.log(np.maximum(probabilities[self._rows, self._truth], LEAST)).mean()
        return -round(self.f1(probabilities.argmax(1)) / TIE), float(loss)

    def _counts(self, classes: Integers, rows: NDArray[np.bool_] | slice = slice(None)) -> Floats:
        """(repeats, 18): how many of these rows have each class."""
        counted = np.bincount(self._offset[rows] + classes, minlength=self._n * N_CLASSES)
        return counted.astype(float).reshape(self._n, N_CLASSES)


def _mean(probabilities: Floats, weights: Floats) -> Floats:
    """(K, n, 18) -> (n, 18)."""
    averaged: Floats = np.tensordot(weights, probabilities, 1)
    return averaged


def _repeat(library: Library, single: Integers, ensemble: Integers, number: int) -> Repeat:
    rows = library.repeat == number
    return Repeat(library.truth[rows], single[rows], ensemble[rows], library.person[rows], library.stratum[rows])
