"""How far a macro F1 might be from what other people would give: resampling the people within gender x age group.

A group of two or three people, as those over 59 in a fold, has too small a bootstrap variance, by (k - 1) / k. So k - 1 of its k
people are drawn, each for k / (k - 1) of a person (Rao & Wu, Resampling Inference with Complex Survey Data, 1988).

The interval of a score is F1 +- t sd, t with Satterthwaite's degrees of freedom over the groups. How it was chosen: one trained
classifier, holdouts of drawn people in the shares of the contest's data (`python -m tests.benchmarks.intervals holdout 400`; 400
holdouts a case, so that the coverage is known to +- .01; how many of the intervals held the true score, and half their width in F1):

    people, true macro F1     69, 0.26    69, 0.42    400, 0.27   400, 0.42
    this interval             .95 .069    .94 .101    .96 .026    .96 .032
    F1 +- 1.96 sd             .93 .062    .92 .081    .96 .026    .96 .032
    the same on the logit     .95 .063    .92 .081    .96 .026    .96 .032
    percentiles               .93 .061    .90 .079    .95 .025    .96 .032
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import N_CLASSES

CONFIDENCE = 0.95
RESAMPLES = 2000

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def macro_f1(truth: Floats, answered: Floats, hits: Floats) -> Floats:
    """Macro F1, as `maskcls.training.metrics` has it, from counts a class (..., 18): photos, answers, and right answers.

    The mean over the classes that occur; counts may be fractions, as weights of people make them.
    """
    occurs = truth > 0
    f1 = 2 * hits / np.where(occurs, truth + answered, 1.0)
    total: Floats = np.where(occurs, f1, 0.0).sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
    return total


def class_counts(person: Integers, classes: Integers, counted: NDArray[np.bool_] | None = None) -> Floats:
    """(people, 18): how many photos of each person have each class, of those that count."""
    n = int(person.max()) + 1
    found: Floats = (
        np.bincount(person * N_CLASSES + classes, counted, n * N_CLASSES).astype(float).reshape(n, N_CLASSES)
    )
    return found


def merge_single_strata(stratum: Integers) -> Integers:
    """Strata of one person, whose variance nothing shows, go with the smallest other one (Cochran, Sampling Techniques, 1977, 5A.12)."""
    joined = stratum.copy()
    while True:
        names, sizes = np.unique(joined, return_counts=True)
        if sizes.min() > 1 or len(names) == 1:
            return joined
        single, other = names[np.argsort(sizes, kind="stable")[:2]]
        joined[joined == single] = other


def resample_weights(stratum: Integers, generator: np.random.Generator, resamples: int) -> Floats:
    """(resamples, people): how many times each person counts in each resample."""
    drawn = np.ones((resamples, len(stratum)))
    for name in np.unique(stratum):
        _draw(drawn, np.flatnonzero(stratum == name), generator)
    return drawn


def _draw(drawn: Floats, members: Integers, generator: np.random.Generator) -> None:
    """Fill in how many times each of a group's people counts."""
    k = len(members)
    if k > 1:
        drawn[:, members] = generator.multinomial(k - 1, np.full(k, 1 / k), size=len(drawn)) * k / (k - 1)


@dataclass(frozen=True)
class PredictionCounts:
    """The answers of a classifier, by person: (people, 18) photos, answers and right answers of each class; (people,) groups."""

    tables: tuple[Floats, Floats, Floats]
    group: Integers

    @classmethod
    def from_photos(
        cls, truth: Integers, answers: Integers, person: NDArray[Any], stratum: NDArray[Any]
    ) -> PredictionCounts:
        """From photos, (n,) each."""
        _, first, number = np.unique(person, return_index=True, return_inverse=True)
        _, group = np.unique(stratum[first], return_inverse=True)
        return cls(
            (class_counts(number, truth), class_counts(number, answers), class_counts(number, truth, answers == truth)),
            merge_single_strata(group),
        )

    @property
    def f1(self) -> float:
        """Macro F1 of all."""
        return float(macro_f1(*(table.sum(0) for table in self.tables)))

    def resampled(self, generator: np.random.Generator, resamples: int) -> Floats:
        """(resamples,) macro F1 with the people resampled within their groups."""
        return self._f1s(resample_weights(self.group, generator, resamples))

    def degrees_of_freedom(self, generator: np.random.Generator, resamples: int) -> float:
        """Satterthwaite's degrees of freedom (1946) of the resamples' variance, from what each group alone adds to it.

        A group of two or three people, whose variance is a guess, has few; nan where nothing varies.
        """
        variances, own = [], []
        for name in np.unique(self.group):
            members = np.flatnonzero(self.group == name)
            drawn = np.ones((resamples, len(self.group)))
            _draw(drawn, members, generator)
            variances.append(float(self._f1s(drawn).var()))
            own.append(max(len(members) - 1, 1))
        squares = sum(variance**2 / n for variance, n in zip(variances, own, strict=True))
        return sum(variances) ** 2 / squares if squares else np.nan

    def _f1s(self, drawn: Floats) -> Floats:
        return macro_f1(*(drawn @ table for table in self.tables))


@dataclass(frozen=True)
class Interval:
    """A macro F1 and its 95 % interval."""

    f1: float
    low: float
    high: float


def f1_interval(
    truth: Integers, answers: Integers, person: NDArray[Any], stratum: NDArray[Any], seed: int = 0
) -> Interval:
    """Macro F1 of a classifier's answers, (n,) each, within what other people of the same groups would give of the same classifier.

    The interval is F1 +- t sd of the resamples, within 0..1, t with Satterthwaite's degrees of freedom over the groups. Where nobody is
    answered wrongly nothing varies, and it has no width.

    Args:
        stratum: gender x age group of the photo's person.
        seed: of the bootstrap.

    Raises CallError where the arrays do not fit or hold nothing.
    """
    shapes = {np.shape(values) for values in (truth, answers, person, stratum)}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not len(truth):
        raise CallError(f"An interval needs arrays of one shape (n,) with n > 0, but got {sorted(map(str, shapes))}.")
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    generator, answered = np.random.default_rng(seed), PredictionCounts.from_photos(truth, answers, person, stratum)
    sd = float(answered.resampled(generator, RESAMPLES).std())
    half = float(stdtrit(answered.degrees_of_freedom(generator, RESAMPLES), (1 + CONFIDENCE) / 2)) * sd if sd else 0.0
    return Interval(answered.f1, max(0.0, answered.f1 - half), min(1.0, answered.f1 + half))
