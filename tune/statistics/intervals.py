"""A 95 % interval for a macro F1: how far it may be from what other people would give, by resampling people.

The unit is the person, not the photo: the photos of one person are right or wrong together. People are resampled within
gender x age group, as the splits are drawn, so that every resample has as many of each group.

A plain bootstrap of a group of k people has a variance that is too small by (k - 1) / k, which matters for the two or
three people over 59 in a fold. So k - 1 of the k people are drawn, with replacement, and each counts k / (k - 1) times
(Rao and Wu, Resampling Inference with Complex Survey Data, Journal of the American Statistical Association 83, 1988).

The interval is F1 +- t sd, where sd is that of the resamples and t has Satterthwaite's degrees of freedom over the
groups (Satterthwaite, An Approximate Distribution of Estimates of Variance Components, Biometrics Bulletin 2, 1946).

It was chosen by experiment (`python -m tests.benchmarks.intervals holdout 400`): one trained classifier, and holdouts
of drawn people in the shares of the contest's data; 400 holdouts per case, so that the coverage is known to +- .01.
Each cell is the share of the intervals that held the true score, and half their width in F1:

    people, true macro F1     69, 0.26    69, 0.42    400, 0.27   400, 0.42
    this interval             .95 .069    .94 .101    .96 .026    .96 .032
    F1 +- 1.96 sd             .93 .062    .92 .081    .96 .026    .96 .032
    the same on the logit     .95 .063    .92 .081    .96 .026    .96 .032
    percentiles               .93 .061    .90 .079    .95 .025    .96 .032
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES
from maskcls.training.metrics import macro_f1

CONFIDENCE = 0.95
RESAMPLES = 2000

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def class_counts(person: Integers, classes: Integers, counted: NDArray[np.bool_] | None = None) -> Floats:
    """How many photos of each person have each class, (people, 18).

    Args:
        person: (n,) number of the photo's person, from 0.
        classes: (n,) class of the photo, 0..17.
        counted: (n,) which photos count; None: all.
    """
    n = int(person.max()) + 1
    # One count per (person, class) pair, numbered row by row of the result.
    flat = np.bincount(person * N_CLASSES + classes, counted, n * N_CLASSES)  # (people * 18,)
    found: Floats = flat.astype(float).reshape(n, N_CLASSES)
    return found


def merge_single_strata(stratum: Integers) -> Integers:
    """Strata, (people,), in which every stratum of one person is merged with the smallest other stratum.

    One person alone shows no variance, so collapsed strata are used (Cochran, Sampling Techniques, 1977, section
    5A.12).
    """
    merged = stratum.copy()
    while True:
        names, sizes = np.unique(merged, return_counts=True)
        if sizes.min() > 1 or len(names) == 1:
            return merged
        single, other = names[np.argsort(sizes, kind="stable")[:2]]  # the two smallest; the order of equals is fixed
        merged[merged == single] = other


def resample_weights(stratum: Integers, generator: np.random.Generator, resamples: int) -> Floats:
    """How many times each person counts in each resample, (resamples, people)."""
    weights = np.ones((resamples, len(stratum)))
    for members, counts in resample_groups(stratum, generator, resamples):
        weights[:, members] = counts
    return weights


def resample_groups(group: Integers, generator: np.random.Generator, resamples: int) -> list[tuple[Integers, Floats]]:
    """For each group its k people and how many times each of them counts in each resample, (resamples, k)."""
    found = []
    for name in np.unique(group):
        members = np.flatnonzero(group == name)
        k = len(members)
        counts = np.ones((resamples, k))  # a single person always counts once
        if k > 1:
            drawn = generator.multinomial(k - 1, np.full(k, 1 / k), size=resamples)
            counts = drawn * k / (k - 1)  # Rao and Wu's rescaling; each row sums to k
        found.append((members, counts))
    return found


def degrees_of_freedom(groups: Sequence[tuple[Integers, Floats]], statistic: Callable[[Floats], Floats]) -> Floats:
    """Satterthwaite's degrees of freedom, (...), of the variance of some scores; nan where a score does not vary.

    They are few where the variance comes from a group of two or three people, which can only guess it.

    Args:
        groups: of `resample_groups`.
        statistic: of how often each person counts, (resamples, people), the scores (resamples, ...).
    """
    variances, own = [], []
    people = sum(len(members) for members, _ in groups)
    for members, counts in groups:
        # Only this group is resampled, so this is its own part of the variance.
        weights = np.ones((len(counts), people))
        weights[:, members] = counts
        # A resample in which nobody has a class has no score of that class.
        variances.append(np.nanvar(statistic(weights), axis=0))  # (...)
        own.append(max(len(members) - 1, 1))
    # (sum of v)^2 / sum of v^2 / df, over the groups' variances v.
    squares = np.asarray(sum(variance**2 / n for variance, n in zip(variances, own, strict=True)))
    varies = squares > 0
    total: Floats = np.where(varies, sum(variances) ** 2 / np.where(varies, squares, 1.0), np.nan)
    return total


@dataclass(frozen=True)
class PredictionCounts:
    """A classifier's predictions, counted by person: all that is needed to score any resample of the people."""

    tables: tuple[Floats, Floats, Floats]
    """(people, 18) each: photos of the class, predictions of the class, and correct predictions."""
    group: Integers
    """(people,) stratum of the person, none of them with one person alone."""

    @classmethod
    def from_photos(
        cls, truth: Integers, predicted: Integers, person: NDArray[Any], stratum: NDArray[Any]
    ) -> PredictionCounts:
        """Count true and predicted classes, (n,) each, of photos by their persons."""
        _, first, number = np.unique(person, return_index=True, return_inverse=True)  # (people,), (n,) from 0
        _, group = np.unique(stratum[first], return_inverse=True)  # (people,)
        tables = (
            class_counts(number, truth),
            class_counts(number, predicted),
            class_counts(number, truth, predicted == truth),
        )
        return cls(tables, merge_single_strata(group))

    @property
    def f1(self) -> float:
        """Macro F1 of all photos."""
        return float(macro_f1(*(table.sum(0) for table in self.tables)))

    def resampled(self, generator: np.random.Generator, resamples: int) -> Floats:
        """Macro F1 of each resample of the people within their groups, (resamples,)."""
        return self._weighted_f1(resample_weights(self.group, generator, resamples))

    def degrees_of_freedom(self, generator: np.random.Generator, resamples: int) -> float:
        """Satterthwaite's degrees of freedom of the resamples' variance; nan where nothing varies."""
        groups = resample_groups(self.group, generator, resamples)
        return float(degrees_of_freedom(groups, self._weighted_f1))

    def _weighted_f1(self, weights: Floats) -> Floats:
        """Macro F1 of each resample, (resamples,), from how often each person counts, (resamples, people)."""
        return macro_f1(*(weights @ table for table in self.tables))  # three times (resamples, 18)


@dataclass(frozen=True)
class Interval:
    """A macro F1 and its 95 % interval."""

    f1: float
    low: float
    high: float


def f1_interval(
    truth: Integers, predicted: Integers, person: NDArray[Any], stratum: NDArray[Any], seed: int = 0
) -> Interval:
    """Macro F1 of one classifier, with the interval of what it would score on other people of the same groups.

    The interval is cut at 0 and 1. Where every photo is classified correctly nothing varies, and it has no width.

    Args:
        truth: (n,) true classes, 0..17.
        predicted: (n,) predicted classes, 0..17.
        person: (n,) the photo's person, as any values.
        stratum: (n,) gender x age group of that person.
        seed: of the bootstrap.

    Raises:
        CallError: the arrays are empty or have different shapes.
    """
    shapes = {np.shape(values) for values in (truth, predicted, person, stratum)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not len(truth):
        raise CallError(f"An interval needs arrays of one shape (n,) with n > 0, but got {sorted(map(str, shapes))}.")
    from scipy.special import stdtrit

    generator = np.random.default_rng(seed)
    counts = PredictionCounts.from_photos(truth, predicted, person, stratum)
    sd = float(counts.resampled(generator, RESAMPLES).std())
    # stdtrit(df, p) is the p-quantile of Student's t: 0.975 leaves 2.5 % on each side.
    t = float(stdtrit(counts.degrees_of_freedom(generator, RESAMPLES), (1 + CONFIDENCE) / 2)) if sd else 0.0
    half = t * sd
    return Interval(counts.f1, max(0.0, counts.f1 - half), min(1.0, counts.f1 + half))
