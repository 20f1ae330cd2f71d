from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from maskcls.errors import CallError
from maskcls.labels import UNKNOWN
from maskcls.training.metrics import Scores, scores

# Worn male young three times, worn female young twice, not worn female old once.
TRUTH = np.array([0, 0, 0, 3, 3, 17])
ANSWERS = np.array([0, 0, 5, 3, 0, 17])


def test_scores_are_those_computed_by_hand() -> None:
    s = scores(TRUTH, ANSWERS)
    assert s.n == 6
    assert s.accuracy == pytest.approx(4 / 6)
    # found / (found + (missed + false alarms) / 2):
    assert s.class_f1[0] == pytest.approx(2 / (2 + (1 + 1) / 2))
    assert s.class_f1[3] == pytest.approx(1 / (1 + (1 + 0) / 2))
    assert s.class_f1[17] == pytest.approx(1.0)
    # Class 5 was answered but does not occur: it costs class 0 its recall, and is no class of its own.
    assert [c for c in range(18) if not math.isnan(s.class_f1[c])] == [0, 3, 17]
    assert s.f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_task_scores_are_those_computed_by_hand() -> None:
    s = scores(TRUTH, ANSWERS)
    # Masks: five worn, one not worn, all found.
    assert s.task_f1["mask3"] == pytest.approx(1.0)
    # Truth mmmfff, answers mmffmf: 2 found of 3 each, 1 false alarm each.
    assert s.task_f1["gender2"] == pytest.approx(2 / 3)
    # Truth yyyyyo, answers yyoyyo: young 4 found, 1 missed; old 1 found, 1 false alarm.
    assert s.task_f1["age3"] == pytest.approx((4 / 4.5 + 1 / 1.5) / 2)


def test_a_class_never_found_counts_as_zero() -> None:
    s = scores(np.arange(18), np.zeros(18, int))
    assert s.f1 == pytest.approx((1 / (1 + 17 / 2)) / 18)


def test_probabilities_and_their_logarithms_score_like_their_classes() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(18), 200)
    truth = np.random.default_rng(1).integers(0, 18, 200)
    expected = scores(truth, probabilities.argmax(1)).to_dict()
    assert scores(truth, probabilities).to_dict() == expected
    assert scores(truth, np.log(probabilities)).to_dict() == expected


def test_scores_go_through_json() -> None:
    s = scores(TRUTH, ANSWERS)
    back = Scores.from_dict(json.loads(json.dumps(s.to_dict(), allow_nan=False)))
    assert repr(back) == repr(s)


def test_photos_of_an_unknown_class_are_not_scored() -> None:
    truth, predictions = np.insert(TRUTH, [0, 3], UNKNOWN), np.insert(ANSWERS, [0, 3], [17, 0])
    assert repr(scores(truth, predictions)) == repr(scores(TRUTH, ANSWERS))
    distribution = np.eye(18)[predictions]
    assert repr(scores(truth, distribution)) == repr(scores(TRUTH, ANSWERS))
    with pytest.raises(CallError, match="Scores need photos of a known class"):
        scores(np.array([UNKNOWN]), np.array([3]))


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(CallError, match=r"n > 0 classes .* but got shapes \(0,\) and \(0,\)"):
        scores(np.array([], int), np.array([], int))
    with pytest.raises(CallError, match=r"but got shapes \(2,\) and \(3,\)"):
        scores(np.array([1, 2]), np.array([1, 2, 3]))
    with pytest.raises(CallError, match=r"Classes are 0\.\.17, but the predictions hold 1\.\.18"):
        scores(np.array([1, 2]), np.array([1, 18]))


def test_scores_are_scikit_learns_to_the_bit() -> None:
    """Recorded runs hold them: a trial that is reproduced is compared with them bit by bit."""
    generator = np.random.default_rng(1)
    for n in (1, 2, 7, 40, 1000):
        truth, predicted = generator.integers(0, 18, (2, n))
        found, occurring = scores(truth, predicted), np.unique(truth)
        expected = f1_score(truth, predicted, labels=occurring, average=None, zero_division=0)
        assert np.array_equal(np.array(found.class_f1)[occurring], expected)
        assert found.f1 == np.mean(expected)
