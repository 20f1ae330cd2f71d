"""Is a variant better than its base? A paired difference of macro F1 with a 95 % interval over seeds and people, and a plain word.

In each repeat the base and the variant were trained with one seed on one split, and answered the same photos of the same people.

The interval is mean +- t sqrt(s^2 / n + v / m):

- s^2 is the variance of the n repeats' differences. It holds the seeds, the training people and the tested people of a repeat.
- v is the variance that other tested people would make within a repeat, by a bootstrap of the people within gender x age group; m is
  how many times as many people were tested as one repeat tests. Testing the same people twice tells nothing of other people, so m
  ends at the number of folds, while n goes on. Where no person is tested twice this is the variance of a two-stage bootstrap with
  replacement, which counts the tested people twice (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
  Here that is meant: the repeats' training people overlap, so their differences go together more than s^2 / n can show (Nadeau &
  Bengio, Inference for the Generalization Error, 2003; Bengio & Grandvalet, 2004: no estimate without bias exists).
- t has Satterthwaite's degrees of freedom (1946): n - 1 where the repeats differ most, more where the people do.

How people are resampled stands in `tune.statistics.intervals`.

How it was chosen: by how often such intervals held the true difference, of zero and of another size, and how wide they were.

1. Answers drawn from a model of people and seeds, 80 people a fold, without training (`python -m tests.benchmarks.intervals drawn 600`;
   600 experiments a case): with a seed's noise of 0, 0.5, 1, 1.5 and 2 times the people's, .99 .98 .96 .96 .95 of the intervals of 3
   repeats, .99 .99 .97 .96 .95 of 5, 1.00 .99 .98 .97 .96 of 10 held it. Student's t alone would do here, for nobody is trained on or
   tested twice.
2. Classifiers really trained on 400 drawn people, so that the training people of repeats overlap as they do in folds
   (`python -m tests.benchmarks.intervals trained 400`; 400 experiments a case; held, and half the width in F1):

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
from tune.statistics.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Integers,
    class_counts,
    macro_f1,
    merge_single_strata,
    resample_weights,
)


class Verdict(StrEnum):
    """What an interval says of a difference, in the words that tables show."""

    BETTER = "better"
    WORSE = "worse"
    CANT_TELL = "can't tell"


@dataclass(frozen=True)
class Repeat:
    """The tested photos of one repeat, (n,) each: their true classes, what the base and the variant answered, person and stratum."""

    truth: Integers
    base: Integers
    variant: Integers
    person: NDArray[Any]
    stratum: NDArray[Any]
    """Gender x age group of the person, or any other groups that the folds were drawn within."""


@dataclass(frozen=True)
class Difference:
    """The variant's macro F1 less the base's, over n repeats, with its 95 % interval; nan for one repeat, whose seed has no spread."""

    n: int
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """better, worse, or can't tell; one repeat can never tell, for another seed may turn it round."""
        if self.n < 2 or self.low <= 0 <= self.high:
            return Verdict.CANT_TELL
        return Verdict.BETTER if self.low > 0 else Verdict.WORSE


def difference(repeats: Sequence[Repeat], seed: int = 0) -> Difference:
    """The paired difference over the repeats. Raises CallError where there is none, or where its arrays do not fit.

    Args:
        seed: of the bootstrap.
    """
    if not repeats:
        raise CallError("A difference needs at least one repeat in which base and variant both answered, but got none.")
    generator = np.random.default_rng(seed)
    seen, people = zip(*(_measure(repeat, generator) for repeat in repeats), strict=True)
    n, mean = len(repeats), float(np.mean(seen))
    if n == 1:
        return Difference(n, mean, math.nan, math.nan)
    tested = [len(np.unique(repeat.person)) for repeat in repeats]
    distinct = len(np.unique(np.concatenate([repeat.person for repeat in repeats])))
    by_people = float(np.mean(people)) / (distinct / float(np.mean(tested)))
    by_repeats = float(np.var(seen, ddof=1)) / n
    half = half_width(by_repeats, n, by_people, distinct)
    return Difference(n, mean, mean - half, mean + half)


def half_width(by_repeats: float, n: int, by_people: float, people: int) -> float:
    """Half the interval's width from the two variances of the mean, of n > 1 repeats and of so many people."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    variance = by_repeats + by_people
    if variance == 0:
        return 0.0
    squares = by_repeats**2 / (n - 1) + by_people**2 / max(people - 1, 1)
    degrees_of_freedom = variance**2 / squares
    return float(stdtrit(degrees_of_freedom, (1 + CONFIDENCE) / 2)) * float(np.sqrt(variance))


def expected_by_chance(comparisons: int) -> float:
    """How many of so many verdicts better or worse are to be expected where nothing differs."""
    return (1 - CONFIDENCE) * comparisons


def _measure(repeat: Repeat, generator: np.random.Generator) -> tuple[float, float]:
    """A repeat's difference, and its variance over other people."""
    shapes = {np.shape(values) for values in (repeat.truth, repeat.base, repeat.variant, repeat.person, repeat.stratum)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not len(repeat.truth):
        raise CallError(f"A repeat's arrays must all be (n,) with n > 0, but got shapes {sorted(map(str, shapes))}.")
    _, first, person = np.unique(repeat.person, return_index=True, return_inverse=True)
    _, stratum = np.unique(repeat.stratum[first], return_inverse=True)
    truth = class_counts(person, repeat.truth)
    base, variant = (
        (class_counts(person, a), class_counts(person, repeat.truth, a == repeat.truth))
        for a in (repeat.base, repeat.variant)
    )
    resamples = resample_weights(merge_single_strata(stratum), generator, RESAMPLES)  # (resamples, people)
    drawn = resamples @ truth
    resampled = [macro_f1(drawn, resamples @ answered, resamples @ hits) for answered, hits in (variant, base)]
    seen = [float(macro_f1(truth.sum(0), answered.sum(0), hits.sum(0))) for answered, hits in (variant, base)]
    return seen[0] - seen[1], float(np.var(resampled[0] - resampled[1]))
