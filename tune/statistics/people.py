"""95 % intervals of any scores that are made of sums over people: F1 of a class, error rates of a group, differences.

People are resampled as `tune.statistics.intervals` describes, and the intervals have the same form: the score +- t sd,
with Satterthwaite's degrees of freedom. All scores of a `PeopleResamples` are computed on the same resamples, so that a
difference of two of them is paired: a person who is in both groups counts equally often in both.

Of fewer than FEW_PEOPLE people no interval is given. Ten people whose photos are wrong at a rate of 0.2 show it with a
standard deviation of 0.13 if the photos of a person are right or wrong together (the root of 0.2 * 0.8 / 10), so their
interval would say hardly more than that the rate is between 0 and 1/2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from tune.statistics.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Floats,
    Integers,
    degrees_of_freedom,
    merge_single_strata,
    resample_groups,
    resample_weights,
)

FEW_PEOPLE = 10
"""With fewer people there is too little to tell."""

Statistic = Callable[[Floats], Floats]
"""Of how often each person counts, (r, people), k scores of each of the r resamples, (r, k)."""


@dataclass(frozen=True)
class Intervals:
    """k scores and their 95 % intervals, (k,) each. A score that cannot be computed is nan."""

    value: Floats
    low: Floats
    high: Floats


class PeopleResamples:
    """Resamples of the people of n photos, drawn once from the seed.

    Args:
        person: (n,) the photo's person, as any values.
        stratum: (n,) gender x age group of that person.

    Raises CallError where the arrays are empty or of different shapes.
    """

    def __init__(self, person: NDArray[Any], stratum: NDArray[Any], seed: int = 0) -> None:
        if np.shape(person) != np.shape(stratum) or not len(person):
            raise CallError(
                f"Resampling needs arrays of one shape (n,) with n > 0, but got {np.shape(person)} and "
                f"{np.shape(stratum)}."
            )
        _, first, number = np.unique(person, return_index=True, return_inverse=True)
        self.number: Integers = number.astype(np.int64)
        """(n,) number of each photo's person, from 0."""
        _, group = np.unique(stratum[first], return_inverse=True)  # (people,)
        self._group: Integers = merge_single_strata(group)
        self._seed = seed
        self._weights = resample_weights(self._group, np.random.default_rng(seed), RESAMPLES)  # (resamples, people)

    @cached_property
    def _resampled_alone(self) -> list[tuple[Integers, Floats]]:
        """Each group's people and how often they count where it alone is resampled: the same for all statistics."""
        return resample_groups(self._group, np.random.default_rng([self._seed, 1]), RESAMPLES)

    @property
    def people(self) -> int:
        """How many different people the photos show."""
        return len(self._group)

    def sums(self, values: NDArray[Any]) -> Floats:
        """The sums (people, k) over each person's photos of values (n, k)."""
        total = np.zeros((self.people, values.shape[1]))
        np.add.at(total, self.number, values)
        return total

    def intervals(self, statistic: Statistic, low: float = 0.0, high: float = 1.0) -> Intervals:
        """The scores of these people with their intervals, which are cut at `low` and `high`."""
        from scipy.special import stdtrit

        # A group may have nobody in a resample, or in any.
        with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            value = statistic(np.ones((1, self.people)))[0]  # (k,)
            sd = np.nanstd(statistic(self._weights), axis=0)  # (k,)
            freedom = degrees_of_freedom(self._resampled_alone, statistic)
            # Where nothing varies there is no width. t is the quantile that leaves 2.5 % on each side.
            half = np.where(sd > 0, stdtrit(np.maximum(freedom, 1.0), (1 + CONFIDENCE) / 2) * sd, 0.0)
        return Intervals(value, np.clip(value - half, low, high), np.clip(value + half, low, high))


def ratio(sums: Floats, counts: Floats) -> Statistic:
    """The statistic sum / count, (r, k), of sums and counts by person, (people, k) each."""
    return lambda weights: (weights @ sums) / (weights @ counts)


def f1(truth: Floats, predicted: Floats, hits: Floats) -> Statistic:
    """The statistic F1, (r, k), of counts by person, (people, k) each: of the label, predicted so, both of it.

    nan where nobody has the label.
    """

    def statistic(weights: Floats) -> Floats:
        occurs = weights @ truth  # (r, k)
        found: Floats = np.where(occurs > 0, 2 * (weights @ hits) / (occurs + weights @ predicted), np.nan)
        return found

    return statistic
