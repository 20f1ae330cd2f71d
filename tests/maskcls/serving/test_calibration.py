"""One temperature: it is found again, changes no class, and is not fitted where it would mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from maskcls.errors import CallError
from maskcls.serving.calibration import LOWEST, Calibration, calibrated, expected_error, fit_calibration

GENERATOR = np.random.default_rng(0)
TRUE = GENERATOR.dirichlet(np.full(18, 0.3), 6000)  # (n, 18)
TRUTH = np.array([GENERATOR.choice(18, p=row) for row in TRUE])  # (n,) drawn by them


@pytest.mark.parametrize("sharpness", [0.5, 2.5])
def test_a_temperature_that_was_put_in_is_found_again(sharpness: float) -> None:
    distorted = calibrated(TRUE, 1 / sharpness)
    found = fit_calibration(distorted, TRUTH, "drawn photos")
    assert found is not None
    assert found.temperature == pytest.approx(sharpness, rel=0.05)
    assert found.loss_after < found.loss_before
    assert found.error_after < 0.02 < found.error_before
    assert found.error_after == expected_error(calibrated(distorted, found.temperature), TRUTH)
    assert (found.photos, found.fitted_on) == (6000, "drawn photos")


def test_no_class_changes_however_close_two_are() -> None:
    close = np.full((2, 18), 0.4 / 16)
    close[0, 3], close[0, 9] = 0.3, np.nextafter(0.3, 1)
    close[1, 3], close[1, 9] = np.nextafter(0.3, 1), 0.3
    for temperature in (0.3, 3.0, 8.0):
        assert calibrated(close, temperature).argmax(axis=1).tolist() == [9, 3]
        assert np.array_equal(calibrated(TRUE, temperature).argmax(axis=1), TRUE.argmax(axis=1))
        assert calibrated(TRUE, temperature).sum(axis=1) == pytest.approx(1)
    assert calibrated(close, 1.0) is close, "to the bit"


def test_a_class_that_a_hard_join_rules_out_stays_so_and_decisions_are_left_alone() -> None:
    decisions = np.eye(18)[TRUTH]
    assert np.array_equal(calibrated(decisions, 2.0), decisions)
    assert fit_calibration(decisions, TRUTH, "") is None
    assert fit_calibration(np.maximum(decisions, 1e-38), TRUTH, "") is None, "as such zeros are stored"


def test_too_few_photos_fit_nothing_and_no_mistake_does_not_make_it_boundless() -> None:
    assert fit_calibration(TRUE[:49], TRUTH[:49], "") is None
    right = fit_calibration(TRUE, TRUE.argmax(axis=1), "")
    assert right is not None
    assert right.temperature == pytest.approx(LOWEST, rel=1e-3)


def test_it_goes_through_json_and_refuses_what_is_no_temperature() -> None:
    found = fit_calibration(TRUE, TRUTH, "drawn photos")
    assert found is not None
    assert Calibration.from_dict(found.to_dict()) == found
    for bad in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CallError, match="must be positive and finite"):
            Calibration.from_dict({**found.to_dict(), "temperature": bad})
    with pytest.raises(TypeError, match="a temperature is a number"):
        Calibration.from_dict({**found.to_dict(), "temperature": "2"})
