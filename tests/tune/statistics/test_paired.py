"""The paired difference: against scikit-learn and formulas written out once more, and how often its interval holds the
truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from maskcls.errors import CallError
from maskcls.training.metrics import macro_f1, scores
from tune.statistics import intervals, paired
from tune.statistics.paired import Difference, Repeat, Verdict, difference, expected_by_chance

STRATA = np.repeat(np.arange(6), [20, 16, 3, 19, 19, 3])
"""Gender x age group of a fold's 80 people, the over 59 as rare as in the contest's data."""
MASKS = np.array([0, 0, 0, 0, 0, 1, 2])
AGE_SLIPS = np.array([1.2, 0.6, 0.1])
"""How hard each age group is to recognise, in standard deviations."""
PEOPLES_NOISE = 0.2
"""A seed's noise that moves the difference about as much as other people would."""


def answers(
    generator: np.random.Generator, difficulty: NDArray[np.float64], shift: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Truth and answers, (80 x 7,), of a classifier that slips on the same people in all their photos; a higher shift
    slips more often."""
    n = len(STRATA)
    gender, age = STRATA // 3, STRATA % 3
    slips = 0.7 * difficulty + 0.7 * generator.normal(size=n) + shift > AGE_SLIPS[age]
    said_age = np.where(slips, np.where(age == 1, 2 * generator.integers(0, 2, n), 1), age)
    said_gender = np.where(generator.normal(size=n) > 1.6, 1 - gender, gender)
    said_mask = np.where(generator.random((n, 7)) < 0.03, generator.integers(0, 3, (n, 7)), MASKS)
    said = (
        6 * said_mask
        + 3 * said_gender[:, None]
        + np.where(generator.random((n, 7)) < 0.1, generator.integers(0, 3, (n, 7)), said_age[:, None])
    )
    truth = 6 * MASKS + 3 * gender[:, None] + age[:, None]
    return truth.ravel(), said.ravel()


def repeat(generator: np.random.Generator, number: int, seed_noise: float, effect: float) -> Repeat:
    """A repeat on people of its own: base and variant find the same people hard, and each has a seed's luck."""
    difficulty = generator.normal(size=len(STRATA))
    truth, base = answers(generator, difficulty, seed_noise * generator.normal())
    _, variant = answers(generator, difficulty, effect + seed_noise * generator.normal())
    person = np.repeat(np.arange(len(STRATA)) + number * len(STRATA), 7)
    return Repeat(truth, base, variant, person, np.repeat(STRATA, 7))


def small(effect: float = 0.0, n: int = 3) -> list[Repeat]:
    generator = np.random.default_rng(n)
    return [repeat(generator, number, 0.1, effect) for number in range(n)]


def test_scores_are_those_of_the_metrics() -> None:
    for one in small():
        found = difference([one])
        by_metrics = scores(one.truth, one.variant).f1 - scores(one.truth, one.base).f1
        labels = np.unique(one.truth)
        by_sklearn = [
            f1_score(one.truth, said, labels=labels, average="macro", zero_division=0)
            for said in (one.variant, one.base)
        ]
        assert found.mean == pytest.approx(by_metrics, abs=1e-12)
        assert found.mean == pytest.approx(by_sklearn[0] - by_sklearn[1], abs=1e-12)


def test_a_class_that_nobody_has_does_not_count() -> None:
    truth, answered, hits = np.zeros((3, 18))
    truth[[0, 4]], answered[[0, 4, 9]], hits[[0, 4]] = (4, 2), (3, 2, 1), (3, 2)
    assert macro_f1(truth, answered, hits) == pytest.approx((6 / 7 + 1) / 2)
    assert macro_f1(np.zeros(18), answered, np.zeros(18)) == 0


def test_the_interval_is_the_formula() -> None:
    repeats = small()
    found = difference(repeats, seed=4)
    generator = np.random.default_rng(4)
    means, people = zip(*(paired._measure(one, generator) for one in repeats), strict=True)
    assert found.high - found.mean == pytest.approx(
        _half(np.var(means, ddof=1) / 3, np.mean(people) / 3, 3, 240), rel=1e-3
    )
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def _half(by_repeats: float, by_people: float, n: int, people: int) -> float:
    degrees_of_freedom = (by_repeats + by_people) ** 2 / (by_repeats**2 / (n - 1) + by_people**2 / (people - 1))
    return _t_quantile(degrees_of_freedom) * math.sqrt(by_repeats + by_people)


def _t_quantile(degrees_of_freedom: float) -> float:
    """97.5 % of Student's t, by adding up its density."""
    x = np.linspace(0, 60, 600_001)
    log_density = -(degrees_of_freedom + 1) / 2 * np.log1p(x**2 / degrees_of_freedom)
    log_density += (
        math.lgamma((degrees_of_freedom + 1) / 2)
        - math.lgamma(degrees_of_freedom / 2)
        - math.log(degrees_of_freedom * math.pi) / 2
    )
    return float(x[np.searchsorted(np.cumsum(np.exp(log_density)) * 1e-4, 0.475)])


def test_people_who_are_tested_twice_tell_nothing_new() -> None:
    once = small(n=2)
    twice = [*once, *once]
    found = difference(twice, seed=4)
    generator = np.random.default_rng(4)
    means, people = zip(*(paired._measure(one, generator) for one in twice), strict=True)
    by_repeats, by_people = np.var(means, ddof=1) / 4, np.mean(people) / 2  # 160 people, 80 a repeat
    half = found.high - found.mean
    assert half == pytest.approx(_half(by_repeats, by_people, 4, 160), rel=1e-3)
    assert half > 1.04 * _half(by_repeats, by_people / 2, 4, 320), (
        "narrower, as if the people of the third and fourth repeat were others"
    )


def test_the_variance_over_people_is_that_over_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a group has two or three people, whose bootstrap would be a third too narrow."""
    monkeypatch.setattr(paired, "RESAMPLES", 60)
    generator = np.random.default_rng(1)
    means, variances = [], []
    for number in range(600):
        one = repeat(generator, number, 0.0, 0.0)
        mean, variance = paired._measure(one, generator)
        means.append(mean)
        variances.append(variance)
    assert math.sqrt(np.mean(variances)) == pytest.approx(np.std(means, ddof=1), rel=0.1)


def test_a_group_of_one_goes_with_the_smallest_other() -> None:
    assert intervals.merge_single_strata(np.array([0, 0, 0, 1, 1, 2])).tolist() == [0, 0, 0, 1, 1, 1]
    assert intervals.merge_single_strata(np.array([0, 1, 2, 2])).tolist() == [1, 1, 2, 2]
    assert intervals.merge_single_strata(np.array([0])).tolist() == [0]


def test_one_repeat_has_no_interval() -> None:
    found = difference(small(n=1))
    assert math.isfinite(found.mean)
    assert (math.isnan(found.low), math.isnan(found.high), found.verdict) == (True, True, Verdict.CANT_TELL)


def test_the_word() -> None:
    assert Difference(5, 0.02, 0.001, 0.039).verdict == Verdict.BETTER
    assert Difference(5, -0.02, -0.039, -0.001).verdict == Verdict.WORSE
    assert Difference(5, 0.02, 0.0, 0.04).verdict == Verdict.CANT_TELL
    assert Difference(1, 0.02, 0.001, 0.039).verdict == Verdict.CANT_TELL, "another seed may turn it round"
    assert difference(small(2.0, n=5)).verdict == Verdict.WORSE
    assert expected_by_chance(40) == pytest.approx(2.0)


def test_equal_answers_differ_by_nothing() -> None:
    equal = [Repeat(one.truth, one.base, one.base, one.person, one.stratum) for one in small()]
    assert difference(equal) == Difference(3, 0.0, 0.0, 0.0)
    assert difference(equal).verdict == Verdict.CANT_TELL


def test_the_same_seed_gives_the_same_and_photos_may_come_in_any_order() -> None:
    repeats = small()
    order = np.random.default_rng(0).permutation(len(repeats[0].truth))
    shuffled = [
        Repeat(one.truth[order], one.base[order], one.variant[order], one.person[order], one.stratum[order])
        for one in repeats
    ]
    assert difference(repeats) == difference(repeats)
    assert difference(shuffled) == difference(repeats)
    assert difference(repeats, seed=1) != difference(repeats)


REST = ((3, 0.0), (10, 0.0), (5, 0.0), (5, 0.3), (10, 0.3))


@pytest.mark.parametrize(("n", "effect"), [(3, 0.3), *(pytest.param(*one, marks=pytest.mark.soak) for one in REST)])
def test_the_interval_holds_the_true_difference(n: int, effect: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed's noise half as large as the people's. 250 experiments tell the coverage to within .02 or so."""
    monkeypatch.setattr(paired, "RESAMPLES", 60)
    generator = np.random.default_rng(17)
    found = [
        difference([repeat(generator, number, 0.1, effect) for number in range(n)], seed=run) for run in range(250)
    ]
    true = float(np.mean([one.mean for one in found])) if effect else 0.0
    held = np.mean([one.low <= true <= one.high for one in found])
    assert held >= 0.93
    if effect:
        assert true == pytest.approx(-0.084, abs=0.01)
    widest = {3: 0.17, 5: 0.12, 10: 0.08}[n]
    assert np.mean([one.high - one.mean for one in found]) < widest


@pytest.mark.parametrize(
    ("repeats", "message"),
    [
        ([], "at least one repeat in which both base and variant have predictions, but got none"),
        ([Repeat(*(np.zeros(0, int),) * 5)], r"must all be \(n,\) with n > 0"),
        ([Repeat(np.zeros(2, int), *(np.zeros(3, int),) * 4)], "must all be"),
    ],
)
def test_what_is_no_repeat_is_refused(repeats: list[Repeat], message: str) -> None:
    with pytest.raises(CallError, match=message):
        difference(repeats)
