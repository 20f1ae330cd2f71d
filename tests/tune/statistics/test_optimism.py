"""The expected optimism of the best score, against simulated searches whose true scores are known."""

from __future__ import annotations

import numpy as np
import pytest

from tune.statistics.optimism import FEWEST, ScoreMoments


def moments_of(scores: np.ndarray) -> ScoreMoments:
    moments = ScoreMoments()
    for score in scores.tolist():
        moments.add(score)
    return moments


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.1])
def test_on_average_it_is_what_the_best_score_exceeds_its_truth_by(spread: float) -> None:
    generator, people, searches = np.random.default_rng(3), 70, 2000
    expected, real = np.zeros(searches), np.zeros(searches)
    for search in range(searches):
        truth = generator.normal(0.5, spread, 40).clip(0.05, 0.95)
        scores = truth + generator.normal(0, np.sqrt(truth * (1 - truth) / people))
        expected[search] = moments_of(scores).expected_optimism(people)
        real[search] = scores.max() - truth[scores.argmax()]
    assert real.mean() > 0.03
    assert expected.mean() == pytest.approx(real.mean(), rel=0.2)


def test_sums_say_what_all_scores_together_say() -> None:
    scores = np.array([0.2, 0.5, 0.45, 0.3, 0.48])
    noise = 0.25 / 100
    expected = noise / scores.var(ddof=1) * (0.5 - scores.mean())
    assert moments_of(scores).expected_optimism(100) == pytest.approx(expected)


def test_equal_scores_and_few_of_them_expect_nothing() -> None:
    assert moments_of(np.full(5, 0.4)).expected_optimism(70) == pytest.approx(0.0)
    assert moments_of(np.array([0.1, 0.5, 0.4])).expected_optimism(70) is None
    assert FEWEST == 4
    assert moments_of(np.array([0.1, 0.5, 0.4, 0.3])).expected_optimism(0) is None
