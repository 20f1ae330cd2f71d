"""Calibration by one temperature (Guo et al., On Calibration of Modern Neural Networks, ICML 2017): p ** (1 / T),
normalised, of the 18 probabilities that a bundle gives. Above 1 it makes them less sure, below 1 surer.

The order of the classes stays, so that it changes no predicted class and no F1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.files import number_of

Floats = NDArray[np.float64]

LOWEST, HIGHEST = 0.25, 8.0
"""Bounds of the temperature: where all photos are right, no temperature would be low enough."""
LEAST_PHOTOS = 50
"""With fewer photos nothing is fitted: T stays 1."""
_TINY = 1e-12
"""In place of a probability of 0, in logarithms."""
_MEASURED = ("loss_before", "loss_after", "error_before", "error_after")
BINS = 15
"""Of equal width, of the expected calibration error here; the paper's number."""


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it did to the predictions that it was fitted on."""

    temperature: float
    fitted_on: str
    """For people: whose predictions for whom."""
    photos: int
    loss_before: float
    """Mean of -log p of the true class."""
    loss_after: float
    error_before: float
    """Expected calibration error of the predicted class."""
    error_after: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise CallError(f"A temperature must be positive and finite, but is {self.temperature}.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a bundle; `from_dict` gives an equal calibration."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave. Raises KeyError, TypeError and ValueError where something is missing or
        no number, CallError as above."""
        temperature = values["temperature"]
        if not isinstance(temperature, float | int) or isinstance(temperature, bool):
            raise TypeError(f"a temperature is a number, not {temperature!r}")
        numbers = {name: number_of(values[name]) for name in _MEASURED}
        texts = {"fitted_on": str(values["fitted_on"]), "photos": int(values["photos"])}
        return cls(temperature=float(temperature), **numbers, **texts)  # type: ignore[arg-type]


def calibrated(probabilities: Floats, temperature: float) -> Floats:
    """Return p ** (1 / temperature), normalised, of probabilities (n, 18). With 1 they are returned as they are."""
    if temperature == 1:
        return probabilities
    with np.errstate(divide="ignore"):  # log 0: a class that a hard join rules out stays ruled out
        scaled = np.log(probabilities) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    found: Floats = powers / powers.sum(axis=1, keepdims=True)
    # Two classes that differed in their last bit may have become equal: the first would be taken for the likelier one.
    best, row = probabilities.argmax(axis=1), np.arange(len(found))
    moved = found.argmax(axis=1) != best
    found[row[moved], best[moved]] = np.nextafter(found[moved].max(axis=1), 2)
    return found


def fit_calibration(probabilities: Floats, truth: NDArray[np.int64], fitted_on: str) -> Calibration | None:
    """Fit the temperature that gives the true classes (n,) the highest mean log probability; None for too few photos,
    and for decisions (a hard join's zeros and ones), which no temperature changes.

    Args:
        probabilities: (n, 18), of photos on which nothing was trained.
        fitted_on: for people, as in `the winner's 3 repeats, each on people of a fold that it was not trained on`.
    """
    if len(truth) < LEAST_PHOTOS or float(np.minimum(probabilities, 1 - probabilities).max()) < _TINY:
        return None
    from scipy.optimize import minimize_scalar

    # Convex in 1 / T, and so with one minimum in log T as well.
    bounds = (float(np.log(LOWEST)), float(np.log(HIGHEST)))
    found = minimize_scalar(
        lambda log_t: _loss(calibrated(probabilities, float(np.exp(log_t))), truth), bounds=bounds, method="bounded"
    )
    temperature = round(float(np.exp(found.x)), 4)
    after = calibrated(probabilities, temperature)
    return Calibration(
        temperature=temperature,
        fitted_on=fitted_on,
        photos=len(truth),
        loss_before=_loss(probabilities, truth),
        loss_after=_loss(after, truth),
        error_before=expected_error(probabilities, truth),
        error_after=expected_error(after, truth),
    )


def expected_error(probabilities: Floats, truth: NDArray[np.int64]) -> float:
    """Return the expected calibration error of the predicted classes, in BINS bins of equal width."""
    confidence = probabilities.max(axis=1)  # (n,)
    gap = confidence - (probabilities.argmax(axis=1) == truth)  # (n,)
    number = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(number, weights=gap, minlength=BINS)).sum() / len(truth))


def _loss(probabilities: Floats, truth: NDArray[np.int64]) -> float:
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], _TINY)).mean())
