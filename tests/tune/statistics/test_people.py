"""Intervals over people of any scores: those of one macro F1, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from maskcls.errors import CallError
from maskcls.training.metrics import macro_f1
from tune.statistics.intervals import f1_interval
from tune.statistics.people import PeopleResamples, f1, ratio


def photos(people: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Seven photos per person: truth, predictions, persons and strata."""
    generator = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), 7)
    truth = generator.integers(18, size=len(person))
    predicted = np.where(generator.random(len(person)) < 0.6, truth, generator.integers(18, size=len(person)))
    return truth, predicted, person, person % 6


def test_it_is_the_interval_of_a_macro_f1() -> None:
    truth, predicted, person, stratum = photos(60, 1)
    known = f1_interval(truth, predicted, person, stratum)
    resamples = PeopleResamples(person, stratum)
    eye = np.eye(18)
    tables = [resamples.sums(one) for one in (eye[truth], eye[predicted], eye[truth] * eye[predicted])]
    found = resamples.intervals(lambda weights: macro_f1(*(weights @ table for table in tables))[:, None])
    assert found.value[0] == pytest.approx(known.f1)
    assert (found.low[0], found.high[0]) == pytest.approx((known.low, known.high), abs=0.004)


def test_a_label_that_nobody_has_has_no_score() -> None:
    resamples = PeopleResamples(np.arange(20), np.zeros(20, np.int64))
    truth = np.eye(2)[np.zeros(20, int)]
    found = resamples.intervals(f1(truth, truth, truth))
    assert found.value.tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert (found.low[0], found.high[0]) == (1, 1)


def test_a_rate_is_held_by_its_interval_about_as_often_as_said() -> None:
    held, n = 0, 200
    for seed in range(n):
        generator = np.random.default_rng(seed)
        person = np.repeat(np.arange(30), 4)
        wrong = np.repeat(generator.random(30) < 0.3, 4).astype(float)[:, None]
        resamples = PeopleResamples(person, person % 2, seed)
        found = resamples.intervals(ratio(resamples.sums(wrong), resamples.sums(np.ones_like(wrong))))
        held += int(found.low[0] <= 0.3 <= found.high[0])
    assert 0.90 <= held / n <= 0.99


def test_arrays_must_fit() -> None:
    with pytest.raises(CallError, match="one shape"):
        PeopleResamples(np.arange(3), np.arange(2))
