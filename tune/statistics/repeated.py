"""The mean macro F1 of a recipe that was trained n times, and its 95 % interval over seeds and people.

The interval is that of a paired difference (`tune.statistics.paired`), of one classifier instead of two:
mean +- t sqrt(s^2 / n + v / m). s^2 is the variance of the n scores, v the variance that other tested people would
make within a repeat, and m how often the repeats tested other people. So it says what the recipe would score on average
with other seeds, on other people of the same groups. It knows nothing of the choice among recipes: the best of several
means is too good, and the score on the holdout is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from tune.statistics.intervals import RESAMPLES, Integers, Interval, PredictionCounts
from tune.statistics.paired import half_width


@dataclass(frozen=True)
class RepeatPredictions:
    """The n tested photos of one repeat: what they are, and what the classifier predicted."""

    truth: Integers
    """(n,) true classes, 0..17."""
    predicted: Integers
    """(n,) predicted classes, 0..17."""
    person: NDArray[Any]
    """(n,) the photo's person."""
    stratum: NDArray[Any]
    """(n,) gender x age group of the person."""


def mean_f1_interval(repeats: Sequence[RepeatPredictions], seed: int = 0) -> Interval:
    """The mean macro F1 of the repeats with its interval, cut at 0 and 1.

    `low` and `high` are nan for one repeat, which shows no spread over seeds.

    Args:
        seed: of the bootstrap.

    Raises:
        CallError: there is no repeat.
    """
    if not repeats:
        raise CallError("A mean needs at least one repeat that has predictions, but got none.")
    generator = np.random.default_rng(seed)
    counts = [PredictionCounts.from_photos(one.truth, one.predicted, one.person, one.stratum) for one in repeats]
    scores = [one.f1 for one in counts]
    n, mean = len(scores), float(np.mean(scores))
    if n == 1:
        return Interval(mean, math.nan, math.nan)
    variances = [float(one.resampled(generator, RESAMPLES).var()) for one in counts]
    tested = [len(np.unique(one.person)) for one in repeats]
    distinct = len(np.unique(np.concatenate([one.person for one in repeats])))
    by_people = float(np.mean(variances)) / (distinct / float(np.mean(tested)))  # v / m
    by_repeats = float(np.var(scores, ddof=1)) / n  # s^2 / n
    half = half_width(by_repeats, n, by_people, distinct)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))
