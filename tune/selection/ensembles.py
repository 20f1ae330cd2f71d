"""Greedy ensemble selection with replacement, and whether the ensemble is better than its best member alone.

The method is that of Caruana, Niculescu-Mizil, Crew and Ksikes, Ensemble Selection from Libraries of Models, ICML 2004.
It starts with the best candidate alone. Each step adds the candidate, again if need be, whose probabilities score best
when averaged with those added before, up to a size. The answer is the best ensemble on that path, so it never scores
below the best candidate on the people by whom it was selected. A candidate's weight is the share of the steps that
added it.

How this differs from the paper:

- The score is the mean over the repeats of macro F1, by which a search's winner is picked. F1 moves in steps, so equal
  scores are common: they are decided by the log loss, then by what was added before, then by the candidates' order.
- A repeat has one fit of each candidate, which predicts the rows of that repeat. So an ensemble is scored as it is
  exported, with one fit per member. The fits of several seeds are not averaged: that would be a larger ensemble, and
  score as one.
- In the selection the likeliest class is named. In the comparison, as in the bundle, a rule decides
  (`maskcls.serving.decision`), which is fitted, as the weights are, without the part that is scored.
- There is no bagging of the candidates. Instead, whether the ensemble pays is decided on people who selected nothing:
  each part of the people is left out in turn, ensemble and best candidate are selected by the other parts, and both are
  compared on the part that was left out (`tune.statistics.paired`, over the repeats). Scores on the people who selected
  are optimistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from maskcls.serving.decision import Predicted, decided, fit_decision
from maskcls.training.metrics import macro_f1
from tune.statistics.paired import Difference, Repeat, difference

TIE = 1e-9
"""F1 that differ by less are equal but for rounding."""
MIN_PROBABILITY = 1e-15
"""Lower probabilities count as this in the log loss, so that the zeros of a hard join give a finite loss."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Library:
    """What K candidates predicted for n rows.

    A row is one photo in one repeat, so that a photo may have several rows.
    """

    probabilities: Floats
    """(K, n, 18)."""
    truth: Integers
    """(n,) classes 0..17."""
    repeat: Integers
    """(n,) the repeat whose fits predicted the row, from 0."""
    part: Integers
    """(n,) the part of the people with which the row is left out, from 0; all rows of a person are in one part."""
    person: NDArray[Any]
    """(n,)."""
    stratum: NDArray[Any]
    """(n,) gender x age group of the person."""

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
        """The library of the rows where `kept`, (n,), is true."""
        arrays = (self.truth, self.repeat, self.part, self.person, self.stratum)
        return Library(self.probabilities[:, kept], *(values[kept] for values in arrays))

    def f1(self, weights: Floats) -> float:
        """Mean over the repeats of macro F1, of the candidates' probabilities averaged with these weights, (K,)."""
        return _Scorer(self).f1(_weighted_mean(self.probabilities, weights).argmax(1))


def select_ensemble(library: Library, size: int) -> Integers:
    """How often each candidate is taken in the best ensemble on the greedy path, (K,), at most `size` times in total.

    Raises CallError for a size below one.
    """
    if size < 1:
        raise CallError(f"An ensemble's size must be at least 1, but got {size}.")
    scorer = _Scorer(library)
    taken = np.zeros(len(library.probabilities), np.int64)  # (K,)
    summed: Floats = np.zeros(library.probabilities.shape[1:])  # (n, 18) over the candidates taken so far
    path = []
    for n in range(1, size + 1):
        # The smallest key is the best candidate: by score, then one that was taken before, then the first one.
        keys = [  # of each candidate, if it were added next
            (*scorer.key((summed + candidate) / n), taken[k] == 0, k)
            for k, candidate in enumerate(library.probabilities)
        ]
        *key, _, best = min(keys)
        taken[best] += 1
        summed = summed + library.probabilities[best]
        path.append((tuple(key), n, taken.copy()))  # a copy: `taken` is changed by the next step
    # The path may go down again; of equal ensembles the smaller one is cheaper to predict with.
    return min(path, key=lambda step: step[:2])[2]


def best_single(library: Library) -> int:
    """The number of the candidate that scores best alone, with which `select_ensemble` starts."""
    return int(select_ensemble(library, 1).argmax())


@dataclass(frozen=True)
class LeftOutComparison:
    """The ensemble and the best single candidate, compared on people who selected neither."""

    ensemble: float
    """Mean over the repeats of macro F1."""
    single: float
    """Mean over the repeats of macro F1."""
    difference: Difference
    """The ensemble minus the best single candidate."""

    @property
    def pays(self) -> bool:
        """Whether the ensemble scored higher.

        The interval says how sure that is. One of the two has to be exported, so the higher mean decides, sure or not.
        """
        return self.difference.mean > 0


def compare_on_left_out(library: Library, size: int, seed: int = 0, prior: Floats | None = None) -> LeftOutComparison:
    """Compare ensemble and best single candidate on each part of the people, as selected by the other parts.

    Args:
        size: of the ensemble, at most.
        seed: of the bootstrap of the people.
        prior: (18,) of the decision rules (`maskcls.serving.decision.log_prior`); None: the likeliest class is named.

    Raises CallError for fewer than two parts.
    """
    parts = np.unique(library.part)
    if len(parts) < 2:
        raise CallError(
            "Whether an ensemble pays needs at least two parts of the people, one to select by and one to score."
        )
    single, ensemble = np.empty_like(library.truth), np.empty_like(library.truth)  # (n,) predicted classes
    for part in parts:
        here = library.part == part  # (n,)
        others, scored = library.rows(~here), library.probabilities[:, here]  # scored: (K, rows of the part, 18)
        alone = np.eye(len(scored))[best_single(others)]  # (K,)
        weights = ensemble_weights(select_ensemble(others, size))  # (K,), selected without this part
        single[here] = _decided(others, scored, alone, prior)
        ensemble[here] = _decided(others, scored, weights, prior)
    repeats = [_paired_repeat(library, single, ensemble, number) for number in np.unique(library.repeat)]
    scorer = _Scorer(library)
    return LeftOutComparison(scorer.f1(ensemble), scorer.f1(single), difference(repeats, seed))


def ensemble_weights(taken: Integers) -> Floats:
    """The candidates' weights, (K,), which sum to one, from how often each was taken, (K,)."""
    weights: Floats = taken / taken.sum()
    return weights


class _Scorer:
    """Scores predictions for the rows of one library; what all of them share is counted once."""

    def __init__(self, library: Library) -> None:
        _, repeat = np.unique(library.repeat, return_inverse=True)  # (n,) from 0 without gaps
        self._rows = np.arange(len(library.truth))
        # offset + class numbers the (repeat, class) pairs, so that one bincount counts all repeats at once.
        self._truth, self._offset, self._n = library.truth, repeat * N_CLASSES, int(repeat.max()) + 1
        self._occurring = self._counts(self._truth)  # (repeats, 18)

    def f1(self, predicted: Integers) -> float:
        """Mean over the repeats of the macro F1 of predicted classes, (n,)."""
        hits = self._counts(predicted[predicted == self._truth], predicted == self._truth)  # (repeats, 18)
        return float(macro_f1(self._occurring, self._counts(predicted), hits).mean())

    def key(self, probabilities: Floats) -> tuple[int, float]:
        """A sort key of probabilities, (n, 18), smallest for the best: F1 in steps of TIE, then the log loss."""
        of_truth = probabilities[self._rows, self._truth]  # (n,)
        loss = -np.log(np.maximum(of_truth, MIN_PROBABILITY)).mean()
        return -round(self.f1(probabilities.argmax(1)) / TIE), float(loss)

    def _counts(self, classes: Integers, rows: NDArray[np.bool_] | slice = slice(None)) -> Floats:
        """How many of these rows have each class in each repeat, (repeats, 18)."""
        counted = np.bincount(self._offset[rows] + classes, minlength=self._n * N_CLASSES)  # (repeats * 18,)
        return counted.astype(float).reshape(self._n, N_CLASSES)


def _decided(others: Library, scored: Floats, weights: Floats, prior: Floats | None) -> Integers:
    """The classes (m,) of candidates' probabilities (K, m, 18) with these weights, by a rule fitted on other rows."""
    decision = None
    if prior is not None:
        answered = Predicted(_weighted_mean(others.probabilities, weights), others.truth, others.person)
        decision = fit_decision(answered, prior, "")
    return decided(decision, _weighted_mean(scored, weights))


def _weighted_mean(probabilities: Floats, weights: Floats) -> Floats:
    """The candidates' probabilities, (K, n, 18), averaged with the weights, (K,), to (n, 18)."""
    averaged: Floats = np.tensordot(weights, probabilities, 1)
    return averaged


def _paired_repeat(library: Library, single: Integers, ensemble: Integers, number: int) -> Repeat:
    """The rows of one repeat, with the best single candidate as the base and the ensemble as the variant."""
    rows = library.repeat == number  # (n,)
    return Repeat(library.truth[rows], single[rows], ensemble[rows], library.person[rows], library.stratum[rows])
