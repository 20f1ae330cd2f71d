"""The decision rule: what it names, that it finds an imbalance again, and that nobody is scored by a rule fitted on
them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskcls.errors import CallError
from maskcls.labels import UNKNOWN
from maskcls.serving.calibration import calibrated
from maskcls.serving.decision import (
    LEAST_PEOPLE,
    Decision,
    Predicted,
    cross_fitted_classes,
    decided,
    fit_decision,
    log_prior,
)
from maskcls.training.metrics import scores

SHARES = np.array([0.2, 0.15, 0.02] * 2 + [0.06, 0.04, 0.01] * 2 + [0.05, 0.02, 0.005] * 2)
SHARES /= SHARES.sum()
PRIOR = log_prior(np.repeat(np.arange(18), (20_000 * SHARES).astype(int)))


def answered(shares: np.ndarray = SHARES, people: int = 300, seed: int = 0) -> Predicted:
    """Photos of people, each person of one gender and age group, by a classifier that has learnt the shares: its
    probabilities are the true ones."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(18, size=people * 4, p=shares)
    evidence = generator.normal(0, 1, (len(truth), 18))
    evidence[np.arange(len(truth)), truth] += 1.5
    logs = 1.5 * evidence + np.log(shares)
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    person = np.array([f"p{n % people:03d}" for n in range(len(truth))], object)
    return Predicted(powers / powers.sum(axis=1, keepdims=True), truth.astype(np.int64), person)


def rule(tau: float = 0.5, log_prior: tuple[float, ...] = tuple(PRIOR)) -> Decision:
    return Decision(tau, log_prior, "drawn photos", 60, 0.4, 0.45)


def test_a_rule_names_the_largest_adjusted_logarithm_whatever_the_temperature() -> None:
    found = answered()
    expected = (np.log(found.probabilities) - 0.5 * PRIOR).argmax(axis=1)
    assert (expected != found.probabilities.argmax(axis=1)).mean() > 0.05, "it changes something"
    assert np.array_equal(decided(rule(), found.probabilities), expected)
    for temperature in (0.5, 1.6):
        assert np.array_equal(decided(rule(), calibrated(found.probabilities, temperature), temperature), expected)
    assert np.array_equal(decided(None, found.probabilities), found.probabilities.argmax(axis=1))


def test_rare_classes_are_named_oftener_where_that_pays_for_other_people() -> None:
    found = answered()
    fitted = fit_decision(found, PRIOR, "drawn photos")
    assert fitted is not None
    assert 0.2 <= fitted.tau <= 1.2
    assert fitted.f1_before == pytest.approx(scores(found.truth, found.probabilities).f1)
    crossed = cross_fitted_classes(found, PRIOR)
    assert fitted.f1_after == pytest.approx(scores(found.truth, crossed).f1)
    others = answered(seed=1)
    by_rule, likeliest = decided(fitted, others.probabilities), others.probabilities.argmax(axis=1)
    gain = scores(others.truth, by_rule).f1 - scores(others.truth, likeliest).f1
    assert gain > 0.02, "also for people on whom nothing was fitted"
    assert fitted.f1_after > fitted.f1_before


def test_a_classifier_that_was_balanced_too_much_is_put_right() -> None:
    """As by a sampler that draws all classes equally often, while the photos come as they are."""
    found = answered()
    balanced = found.probabilities / SHARES**1.8
    balanced /= balanced.sum(axis=1, keepdims=True)
    fitted = fit_decision(Predicted(balanced, found.truth, found.person), PRIOR, "")
    assert fitted is not None
    assert fitted.tau < 0
    likeliest = scores(found.truth, balanced).f1
    assert fitted.f1_before == pytest.approx(likeliest)
    assert fitted.f1_after > likeliest + 0.02


def test_there_is_no_rule_where_it_does_not_pay() -> None:
    found = answered()
    sure = Predicted(np.eye(18)[found.truth], found.truth, found.person)
    assert fit_decision(sure, PRIOR, "") is None, "the decisions of a hard join"
    assert np.array_equal(cross_fitted_classes(sure, PRIOR), found.truth)
    few = answered(people=LEAST_PEOPLE - 1)
    assert fit_decision(few, PRIOR, "") is None
    assert np.array_equal(cross_fitted_classes(few, PRIOR), few.probabilities.argmax(axis=1))
    same = np.full(18, np.log(1 / 18))
    assert fit_decision(found, same, "") is None, "no tau changes a class"


def test_nobody_is_decided_by_a_rule_that_was_fitted_on_them() -> None:
    """Another truth of one person's photos changes the classes of others, but not of that person."""
    found = answered(people=60)
    before = cross_fitted_classes(found, PRIOR)
    changed = []
    for person in sorted(set(found.person)):
        own = found.person == person
        # Of the same gender and age group, by which the people are divided.
        truth = np.where(own, (found.truth + 6) % 18, found.truth)
        after = cross_fitted_classes(Predicted(found.probabilities, truth, found.person), PRIOR)
        assert np.array_equal(after[own], before[own])
        changed.append((after != before).any())
    assert any(changed)


def test_the_order_of_the_photos_does_not_matter() -> None:
    found = answered(people=60)
    order = np.random.default_rng(3).permutation(len(found.truth))
    # The first photo of a person says the gender and age group by which the people are divided.
    truth = found.truth // 6 * 6 + np.array([int(name[1:]) % 6 for name in found.person])
    one = Predicted(found.probabilities, truth, found.person)
    other = Predicted(one.probabilities[order], one.truth[order], one.person[order])
    assert np.array_equal(cross_fitted_classes(other, PRIOR), cross_fitted_classes(one, PRIOR)[order])
    assert fit_decision(one, PRIOR, "") == fit_decision(other, PRIOR, "")


def test_a_prior_counts_labelled_photos_and_no_class_has_none() -> None:
    found = log_prior(np.array([0, 0, 0, 5, UNKNOWN, UNKNOWN]))
    assert np.exp(found) == pytest.approx(np.array([4, 1, 1, 1, 1, 2, *[1] * 12]) / 22, rel=1e-5)


def test_it_goes_through_json_and_refuses_what_is_no_rule() -> None:
    assert Decision.from_dict(json.loads(json.dumps(rule().to_dict()))) == rule()
    for bad in (0, float("inf"), "1"):
        with pytest.raises((CallError, ValueError)):
            Decision.from_dict({**rule().to_dict(), "tau": bad})
    with pytest.raises(CallError, match="prior of a decision rule must be 18 finite numbers"):
        rule(log_prior=(0.0,) * 17)
