"""Is a variant better than its base? The paired difference of macro F1, its 95 % interval over seeds and people, and a
verdict.

In each repeat the base and the variant were trained with the same seed on the same split, and predicted the same photos
of the same people.

The interval is mean +- t sqrt(s^2 / n + v / m):

- s^2 is the variance of the n repeats' differences. It holds the seeds, the training people and the tested people of a
  repeat.
- v is the variance that other tested people would make within a repeat, by a bootstrap of the people within gender x
  age group. m is the number of different people tested, divided by the number tested in one repeat. Testing the same
  people twice says nothing about other people, so m stops at the number of folds, while n goes on. Where no person is
  tested twice, the sum is the variance of a two-stage bootstrap with replacement, which counts the tested people twice
  (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). Here that is intended: the repeats'
  training people overlap, so their differences are correlated, which s^2 / n does not show (Nadeau and Bengio,
  Inference for the Generalization Error, Machine Learning 52, 2003), and no unbiased estimate of that variance exists
  (Bengio and Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation, JMLR 5, 2004).
- t has Satterthwaite's degrees of freedom (1946): n - 1 where most of the variance is between the repeats, more where
  it is between the people.

`tune.statistics.intervals` describes how people are resampled.

The interval was chosen by how often it and others held the true difference, of zero and of another size, and by their
width:

1. Predictions drawn from a model of people and seeds, 80 people per fold, without training
   (`python -m tests.benchmarks.intervals drawn 600`; 600 experiments per case). With a seed's noise of 0, 0.5, 1, 1.5
   and 2 times the people's, the share of intervals that held it was .99 .98 .96 .96 .95 with 3 repeats, .99 .99 .97 .96
   .95 with 5, and 1.00 .99 .98 .97 .96 with 10. Student's t alone would do here, because nobody is trained on or tested
   twice.
2. Classifiers really trained on 400 drawn people, so that the training people of the repeats overlap as they do in
   folds (`python -m tests.benchmarks.intervals trained 400`; 400 experiments per case; the share that held it, and
   half the width in F1):

                                        3 repeats, 3 folds   5 repeats, 5 folds   10 repeats, 5 folds
       this interval                    .96  .060            .97  .055            .97  .045
       Student's t over repeats         .92-.95  .070        .91-.92  .049        .83-.84  .029
       two-stage bootstrap, percentiles .93-.94  .044        .94-.95  .046        .90-.91  .034
       Nadeau and Bengio's t            .96-.97  .111        .98  .073            .97-.98  .053
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from maskcls.training.metrics import macro_f1
from tune.statistics.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Floats,
    Integers,
    class_counts,
    merge_single_strata,
    resample_weights,
)
from tune.statistics.people import PeopleResamples


class Verdict(StrEnum):
    """What an interval says of a difference, in the words that tables show."""

    BETTER = "better"
    WORSE = "worse"
    CANT_TELL = "can't tell"


@dataclass(frozen=True)
class Repeat:
    """The n tested photos of one repeat: what they are, and what the base and the variant predicted."""

    truth: Integers
    """(n,) true classes, 0..17."""
    base: Integers
    """(n,) classes that the base predicted."""
    variant: Integers
    """(n,) classes that the variant predicted."""
    person: NDArray[Any]
    """(n,) the photo's person."""
    stratum: NDArray[Any]
    """(n,) gender x age group of the person, or any other groups within which the folds were drawn."""


@dataclass(frozen=True)
class Difference:
    """The variant's macro F1 minus the base's, over n repeats, with its 95 % interval."""

    n: int
    mean: float
    low: float
    high: float
    """As `low` nan for one repeat, which shows no spread over seeds."""

    @property
    def verdict(self) -> Verdict:
        """Better or worse where zero is outside the interval.

        One repeat can't tell: another seed may reverse its sign.
        """
        if self.n < 2 or self.low <= 0 <= self.high:
            return Verdict.CANT_TELL
        return Verdict.BETTER if self.low > 0 else Verdict.WORSE


def difference(repeats: Sequence[Repeat], seed: int = 0) -> Difference:
    """The paired difference over the repeats.

    Args:
        seed: of the bootstrap.

    Raises:
        CallError: there is no repeat, or the arrays of one do not fit together.
    """
    if not repeats:
        raise CallError(
            "A difference needs at least one repeat in which both base and variant have predictions, but got none."
        )
    generator = np.random.default_rng(seed)
    # Each repeat's difference, and its variance over other tested people.
    differences, variances = zip(*(_measure(repeat, generator) for repeat in repeats), strict=True)
    n, mean = len(repeats), float(np.mean(differences))
    if n == 1:
        return Difference(n, mean, math.nan, math.nan)
    tested = [len(np.unique(repeat.person)) for repeat in repeats]
    distinct = len(np.unique(np.concatenate([repeat.person for repeat in repeats])))
    by_people = float(np.mean(variances)) / (distinct / float(np.mean(tested)))  # v / m
    by_repeats = float(np.var(differences, ddof=1)) / n  # s^2 / n
    half = half_width(by_repeats, n, by_people, distinct)
    return Difference(n, mean, mean - half, mean + half)


@dataclass(frozen=True)
class ModelDifference:
    """The variant's macro F1 minus the base's, of two trained models on the same photos, with its 95 % interval.

    The interval is over other people alone: it says nothing of the same recipes trained with other seeds.
    """

    people: int
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Better or worse where zero is outside the interval."""
        if self.low <= 0 <= self.high:
            return Verdict.CANT_TELL
        return Verdict.BETTER if self.low > 0 else Verdict.WORSE


def model_difference(pair: Repeat, seed: int = 0) -> ModelDifference:
    """The difference of two models on the same people, who are resampled as for a single model's score.

    Raises CallError where the arrays do not fit together.
    """
    _check_shapes(pair)
    resamples = PeopleResamples(pair.person, pair.stratum, seed)
    eye = np.eye(N_CLASSES)
    truth = resamples.sums(eye[pair.truth])  # (people, 18)
    tables = [
        (resamples.sums(eye[found]), resamples.sums(eye[found] * (found == pair.truth)[:, None]))
        for found in (pair.variant, pair.base)
    ]

    def statistic(weights: Floats) -> Floats:
        drawn = weights @ truth  # (r, 18)
        variant, base = (macro_f1(drawn, weights @ predicted, weights @ hits) for predicted, hits in tables)
        return (variant - base)[:, None]

    found = resamples.intervals(statistic, low=-1.0)
    return ModelDifference(resamples.people, float(found.value[0]), float(found.low[0]), float(found.high[0]))


def half_width(by_repeats: float, n: int, by_people: float, people: int) -> float:
    """Half the interval's width.

    Args:
        by_repeats: variance of the mean by the repeats, s^2 / n.
        n: repeats, at least two.
        by_people: variance of the mean by the tested people, v / m.
        people: different people tested.
    """
    from scipy.special import stdtrit

    variance = by_repeats + by_people
    if variance == 0:
        return 0.0
    # Satterthwaite: (a + b)^2 / (a^2 / df_a + b^2 / df_b).
    squares = by_repeats**2 / (n - 1) + by_people**2 / max(people - 1, 1)
    degrees_of_freedom = variance**2 / squares
    return float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2)) * float(np.sqrt(variance))


def expected_by_chance(comparisons: int) -> float:
    """How many verdicts of better or worse are to be expected among so many comparisons if nothing differs."""
    return (1 - CONFIDENCE) * comparisons


def _check_shapes(repeat: Repeat) -> None:
    shapes = {np.shape(values) for values in (repeat.truth, repeat.base, repeat.variant, repeat.person, repeat.stratum)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not len(repeat.truth):
        raise CallError(f"A repeat's arrays must all be (n,) with n > 0, but got shapes {sorted(map(str, shapes))}.")


def _measure(repeat: Repeat, generator: np.random.Generator) -> tuple[float, float]:
    """A repeat's difference of macro F1, and the variance of that difference over other tested people."""
    _check_shapes(repeat)
    _, first, person = np.unique(repeat.person, return_index=True, return_inverse=True)  # (people,), (n,) from 0
    _, stratum = np.unique(repeat.stratum[first], return_inverse=True)  # (people,)
    truth = class_counts(person, repeat.truth)  # (people, 18)
    # For each arm two tables (people, 18): predictions of each class, and those that are correct.
    base, variant = (
        (class_counts(person, predicted), class_counts(person, repeat.truth, predicted == repeat.truth))
        for predicted in (repeat.base, repeat.variant)
    )
    weights = resample_weights(merge_single_strata(stratum), generator, RESAMPLES)  # (resamples, people)
    # Both arms are scored on the same resamples, so that people who are hard for both cancel out of the difference.
    drawn = weights @ truth  # (resamples, 18)
    resampled = [macro_f1(drawn, weights @ predicted, weights @ hits) for predicted, hits in (variant, base)]
    scores = [float(macro_f1(truth.sum(0), predicted.sum(0), hits.sum(0))) for predicted, hits in (variant, base)]
    return scores[0] - scores[1], float(np.var(resampled[0] - resampled[1]))
