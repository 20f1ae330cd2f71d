"""The interval of a mean over repeats: against the formula written out once more, and how often it holds the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t as student

from maskcls.errors import CallError
from maskcls.training.metrics import scores
from tests.tune.statistics.test_paired import STRATA, answers
from tune.statistics import repeated
from tune.statistics.intervals import PredictionCounts
from tune.statistics.repeated import RepeatPredictions, mean_f1_interval


def of_a_repeat(generator: np.random.Generator, number: int, seed_noise: float) -> RepeatPredictions:
    """A repeat on people of its own, with a seed's luck."""
    n = len(STRATA)
    truth, predicted = answers(generator, generator.normal(size=n), seed_noise * generator.normal())
    return RepeatPredictions(truth, predicted, np.repeat(np.arange(n) + number * n, 7), np.repeat(STRATA, 7))


def repeats(seed: int, n: int = 3, seed_noise: float = 0.2) -> list[RepeatPredictions]:
    generator = np.random.default_rng(seed)
    return [of_a_repeat(generator, number, seed_noise) for number in range(n)]


def test_the_mean_is_that_of_the_scores_and_the_interval_that_of_the_formula() -> None:
    made = repeats(1)
    found = mean_f1_interval(made)
    f1s = [scores(one.truth, np.eye(18)[one.predicted]).f1 for one in made]
    assert found.f1 == pytest.approx(np.mean(f1s))
    generator = np.random.default_rng(9)
    counts = [PredictionCounts.from_photos(one.truth, one.predicted, one.person, one.stratum) for one in made]
    people = np.mean([one.resampled(generator, 4000).var() for one in counts]) / 3  # each tests other people
    seeds = np.var(f1s, ddof=1) / 3
    freedom = (people + seeds) ** 2 / (seeds**2 / 2 + people**2 / (3 * len(STRATA) - 1))
    half = student.ppf(0.975, freedom) * math.sqrt(people + seeds)
    assert (found.low, found.high) == pytest.approx((found.f1 - half, found.f1 + half), abs=0.1 * half)


def test_the_same_people_again_say_nothing_of_other_people() -> None:
    one = repeats(2)[0]
    same = mean_f1_interval([one] * 3)
    others = mean_f1_interval([replace(one, person=one.person + number * len(STRATA)) for number in range(3)])
    assert same.f1 == others.f1
    assert same.high - same.low == pytest.approx(math.sqrt(3) * (others.high - others.low), rel=0.1)


def test_one_repeat_has_no_interval_and_none_no_mean() -> None:
    found = mean_f1_interval(repeats(3, n=1))
    assert math.isfinite(found.f1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.raises(CallError, match="at least one repeat"):
        mean_f1_interval([])


def test_it_holds_the_truth_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated, "RESAMPLES", 60)
    true = np.mean([mean_f1_interval(repeats(1000 + seed, n=1)).f1 for seed in range(300)])
    found = [mean_f1_interval(repeats(seed)) for seed in range(100)]
    assert sum(one.low <= true <= one.high for one in found) >= 90
