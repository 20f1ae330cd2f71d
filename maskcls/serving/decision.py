"""The decision rule: which class is named, by the probabilities that a bundle gives.

Macro F1 counts a rare class as much as a frequent one, and a classifier that was trained on photos as they come names
rare classes too seldom. So the class is argmax(log p - tau log prior) in place of the likeliest one, with the prior of
the classes among the training photos (Menon et al., Long-tail learning via logit adjustment, ICLR 2021): tau = 0 is the
likeliest class, and tau = 1 the class that is best where all classes are equally frequent. The probabilities stay as
they are.

How this differs from the paper: tau is not 1, but the value of TAUS that scores best on photos on which nothing was
trained, because samplers and losses balance the classes as well. It may be negative: a sampler that draws all classes
equally often makes a classifier name rare ones too often. The prior is that of the photos themselves, not of
what a sampler draws. A sampler that draws the classes by a power of their counts changes log prior by a factor, which a
fitted tau takes up.

tau is 0 unless people on whom it was not fitted gain from it (`_Counts.best`). p are the models' own probabilities: of
those that went through a temperature T, T log p takes their place, so that the temperature changes no class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.files import number_of
from maskcls.labels import N_CLASSES, UNKNOWN, stratum_of
from maskcls.training.metrics import macro_f1

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TAUS = tuple(number / 20 for number in range(-20, 31))
"""The t values that are tried: -1 to 1.5."""
_NONE = 20
"""The number of tau = 0 among them."""
LEAST_PEOPLE = 40
"""With fewer people nothing is fitted: the likeliest class is named."""
PARTS = 5
"""Parts of the people, each decided by a tau that was fitted on the others."""
_LIKELIEST = np.full(PARTS, _NONE)
"""The likeliest class for all parts."""
SMOOTHED = 4
"""Neighbours on each side, over which the score is averaged before the best tau is taken: F1 moves in steps."""
_DIGITS = 6
"""Of a logarithm of the prior, in a bundle."""


@dataclass(frozen=True)
class Decision:
    """A tau that is not 0 with its prior, and what it did to the predictions that it was fitted on."""

    tau: float
    log_prior: tuple[float, ...]
    """(18,) natural logarithms, whose exponentials add up to one."""
    fitted_on: str
    """For people: whose predictions for whom."""
    photos: int
    f1_before: float
    """Macro F1 of the likeliest classes."""
    f1_after: float
    """Macro F1 of classes of which each was decided by a tau that was fitted on other people."""

    def __post_init__(self) -> None:
        if not self.tau or not np.isfinite(self.tau):
            raise CallError(f"The tau of a decision rule must be finite and not 0, but is {self.tau}.")
        if len(self.log_prior) != N_CLASSES or not np.isfinite(self.log_prior).all():
            raise CallError(
                f"The prior of a decision rule must be {N_CLASSES} finite numbers, but is {self.log_prior}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a bundle; `from_dict` gives an equal rule."""
        return {**asdict(self), "log_prior": list(self.log_prior)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave. Raises KeyError, TypeError and ValueError where something is missing or no number,
        CallError as above."""
        return cls(
            tau=number_of(values["tau"]),
            log_prior=tuple(map(number_of, values["log_prior"])),
            fitted_on=str(values["fitted_on"]),
            photos=int(values["photos"]),
            f1_before=number_of(values["f1_before"]),
            f1_after=number_of(values["f1_after"]),
        )


class Predicted(NamedTuple):
    """What models predicted for n photos on which they were not trained."""

    probabilities: Floats
    """(n, 18), without a temperature."""
    truth: Integers
    """(n,) classes 0..17."""
    person: NDArray[Any]
    """(n,)."""

    def rows(self, kept: NDArray[np.bool_]) -> Predicted:
        """The photos for which `kept`, (n,), is true."""
        return Predicted(self.probabilities[kept], self.truth[kept], self.person[kept])


def decided(decision: Decision | None, probabilities: Floats, temperature: float = 1.0) -> Integers:
    """Return the classes (n,) of probabilities (n, 18) by a rule; without one, the likeliest.

    Args:
        temperature: that the probabilities have gone through.
    """
    if decision is None:
        classes: Integers = probabilities.argmax(axis=1)
        return classes
    (adjusted,) = _adjusted(probabilities, [decision.tau / temperature], np.array(decision.log_prior))
    return adjusted


def log_prior(labels: Integers) -> Floats:
    """Return (18,) logarithms of the classes' shares among training photos, of which these are the classes.

    UNKNOWN ones do not count. Each class has one photo more than there are, so that none has the share 0.
    """
    counts = np.bincount(labels[labels != UNKNOWN], minlength=N_CLASSES) + 1.0
    logs: Floats = np.round(np.log(counts / counts.sum()), _DIGITS)
    return logs


def prior_of(faces: FaceDataset) -> Floats:
    """`log_prior` of the training people's photos. Folds of the people are drawn so that theirs differs little."""
    return log_prior(faces.photos["label"].to_numpy(np.int64)[faces.rows("train")])


def fit_decision(predicted: Predicted, prior: Floats, fitted_on: str) -> Decision | None:
    """Fit the rule; None where the likeliest class is as good, or for too few people.

    Args:
        prior: (18,) as `log_prior` gives it.
        fitted_on: for people, as in `what 3 repeats predicted for their own validation people`.
    """
    counts = _Counts.of(predicted, prior)
    best = counts.best() if counts else _NONE
    if counts is None or best == _NONE:
        return None
    return Decision(
        tau=TAUS[best],
        log_prior=tuple(prior.tolist()),
        fitted_on=fitted_on,
        photos=len(predicted.truth),
        f1_before=counts.f1(_LIKELIEST),
        f1_after=counts.f1(counts.cross_fitted()),
    )


def cross_fitted_classes(predicted: Predicted, prior: Floats) -> Integers:
    """Return the classes (n,), those of each person by a tau that was fitted without a fifth of the people, among whom
    the person is: so their scores are of the rule, and not of how well it fits them.

    The likeliest classes where `fit_decision` fits none: that choice alone is made by all of the people.
    """
    counts = _Counts.of(predicted, prior)
    if counts is None:
        return decided(None, predicted.probabilities)
    chosen = counts.cross_fitted() if counts.best() != _NONE else _LIKELIEST  # (PARTS,)
    taus = chosen[counts.part]  # (n,)
    classes: Integers = counts.classes[taus, np.arange(len(taus))]
    return classes


def _adjusted(probabilities: Floats, taus: Sequence[float], prior: Floats) -> list[Integers]:
    """The classes (n,) of probabilities (n, 18) under each of the taus."""
    with np.errstate(divide="ignore"):  # log 0: a class that a hard join rules out stays ruled out
        log_p = np.log(probabilities)
    return [(log_p - tau * prior if tau else probabilities).argmax(axis=1) for tau in taus]


@dataclass(frozen=True)
class _Counts:
    """How often each class occurs, is named and is hit, by part of the people: F1 of any tau on any parts."""

    part: Integers
    """(n,) 0..PARTS - 1."""
    classes: Integers
    """(t, n) by each of TAUS."""
    occurring: Floats
    """(PARTS, 18)."""
    named: Floats
    """(PARTS, t, 18)."""
    hits: Floats
    """(PARTS, t, 18)."""

    @classmethod
    def of(cls, predicted: Predicted, prior: Floats) -> Self | None:
        """Count; None for too few people."""
        part = _parts(predicted)
        if part is None:
            return None
        classes = np.stack(_adjusted(predicted.probabilities, TAUS, prior))  # (t, n)
        every = np.ones(len(part))
        named = [_table(part, each, every) for each in classes]
        hits = [_table(part, each, (each == predicted.truth).astype(float)) for each in classes]
        of_truth = _table(part, predicted.truth, every)
        return cls(part, classes, of_truth, np.stack(named, axis=1), np.stack(hits, axis=1))

    def f1(self, taus: Integers) -> float:
        """Macro F1 of all parts, each decided by its tau, by number, (PARTS,)."""
        parts = np.arange(PARTS)
        tables = self.occurring, self.named[parts, taus], self.hits[parts, taus]  # (PARTS, 18) each
        return float(macro_f1(*(table.sum(axis=0) for table in tables)))

    def best(self) -> int:
        """The number of the tau that scores best; that of tau = 0 where none pays.

        It pays where macro F1 rises with each part decided by what the others fit best.
        """
        pays = self.f1(self.cross_fitted()) > self.f1(_LIKELIEST)
        return self._highest(np.arange(PARTS)) if pays else _NONE

    def cross_fitted(self) -> Integers:
        """For each part (PARTS,) the number of the tau that scores best on the others."""
        parts = np.arange(PARTS)
        return np.array([self._highest(parts[parts != part]) for part in parts])

    def _highest(self, parts: Integers) -> int:
        """The number of the tau that scores best on these parts, smoothed; of equal ones the nearest to 0."""
        curve = macro_f1(self.occurring[parts].sum(axis=0), self.named[parts].sum(axis=0), self.hits[parts].sum(axis=0))
        padded = np.pad(curve, SMOOTHED, mode="edge")
        smooth = np.convolve(padded, np.full(2 * SMOOTHED + 1, 1 / (2 * SMOOTHED + 1)), "valid")  # (t,)
        return min(range(len(TAUS)), key=lambda number: (-round(float(smooth[number]), 9), abs(TAUS[number])))


def _table(part: Integers, classes: Integers, weights: Floats) -> Floats:
    """The sums of weights (n,) by part and class, (PARTS, 18)."""
    counts = np.bincount(part * N_CLASSES + classes, weights, minlength=PARTS * N_CLASSES).astype(np.float64)
    return counts.reshape(PARTS, N_CLASSES)


def _parts(predicted: Predicted) -> Integers | None:
    """The part of each photo's person (n,), alike in gender and age group; None for too few people.

    It depends on the people's names alone, not on the order of the photos.
    """
    people, first, place = np.unique(predicted.person.astype(str), return_index=True, return_inverse=True)
    if len(people) < LEAST_PEOPLE:
        return None
    stratum = np.array([stratum_of(int(label)) for label in predicted.truth[first]])  # (people,)
    drawn = np.array([crc32(name.encode(errors="surrogateescape")) for name in people])
    order = np.lexsort((drawn, stratum))  # people of a stratum side by side, in an order that means nothing
    part = np.empty(len(people), np.int64)
    part[order] = np.arange(len(people)) % PARTS
    return part[place]
