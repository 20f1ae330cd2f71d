"""Which training photos an epoch draws, in which order. An epoch is n draws of n photos, whatever the sampler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from maskcls import seeds
from maskcls.errors import CallError, DataError

Integers = NDArray[np.int64]

WEIGHTED_STREAM, SHUFFLE_STREAM, REMAINDER_STREAM = range(
    3
)  # keep the samplers' random numbers apart where a seed is shared


class DrawStream:
    """The endless stream of a model's draws in a fit, cut into epochs of n.

    A pure function of its arguments: any epoch may be asked for first, in any process, with the same answer.
    """

    def __init__(self, labels: NDArray[np.integer], n_labels: int, sampler: str, seed: int, model: int) -> None:
        """Labels (n,) in 0..n_labels-1 of what the model is fed by, for the training photos; samplers as in SAMPLERS.

        A label that no training photo has is left out of the balance. Raises CallError for an unknown sampler or a
        label out of range, DataError where there is no training photo at all.
        """
        if sampler not in SAMPLERS:
            raise CallError(f"There is no sampler {sampler!r}. Samplers: {', '.join(SAMPLERS)}.")
        self.labels = np.asarray(labels, dtype=np.int64)
        self.n = len(self.labels)
        if not self.n:
            raise DataError("There is no photo to train on: at least one expected.")
        if self.labels.min() < 0 or self.labels.max() >= n_labels:
            raise CallError(f"`0 <= label < {n_labels}` must hold, but got {self.labels.min()} to {self.labels.max()}.")
        self.counts = np.bincount(self.labels, minlength=n_labels)
        self.sampler, self.seed, self.model = sampler, seed, model
        self._draw = SAMPLERS[sampler]

    def epoch(self, epoch: int) -> tuple[Integers, Integers]:
        """Positions (n,) that epoch `epoch` (0-based) draws, in order, and each draw's number (n,).

        A draw's number is how often its photo was drawn before it in the whole fit, so it names the draw's view.
        """
        if epoch < 0:
            raise CallError(f"`epoch >= 0` must hold, but got {epoch}.")
        positions, earlier = self._draw(self, epoch)
        return positions, earlier[positions] + _occurrences(positions)

    def generator(self, stream: int, part: int) -> np.random.Generator:
        """The random numbers of one epoch or pass."""
        return seeds.generator(self.seed, self.model, stream, part)


def _weighted(stream: DrawStream, epoch: int, power: float = 1.0) -> tuple[Integers, Integers]:
    """n draws with replacement, each photo with probability proportional to count ** -power of its label."""
    ends = np.cumsum(stream.counts[stream.labels] ** -power)

    def draw(part: int) -> Integers:
        drawn: Integers = np.searchsorted(
            ends, stream.generator(WEIGHTED_STREAM, part).random(stream.n) * ends[-1], side="right"
        )
        return np.minimum(drawn, stream.n - 1)  # the product may round up to the very end

    earlier = np.zeros(stream.n, dtype=np.int64)
    for part in range(epoch):
        earlier += np.bincount(draw(part), minlength=stream.n)
    return draw(epoch), earlier


def _square_root(stream: DrawStream, epoch: int) -> tuple[Integers, Integers]:
    """A label is drawn in proportion to the square root of its count: halfway between as they are and equally often.

    Mahajan et al., "Exploring the Limits of Weakly Supervised Pretraining", ECCV 2018, section 3.
    """
    return _weighted(stream, epoch, power=0.5)


def _listed(stream: DrawStream, epoch: int, copies: Callable[[DrawStream, int], Integers]) -> tuple[Integers, Integers]:
    """Passes over a list (length >= n, the same for every pass), shuffled anew each; epochs cut the passes' row into pieces of n."""

    def shuffled(part: int) -> Integers:
        return stream.generator(SHUFFLE_STREAM, part).permutation(copies(stream, part))

    start = epoch * stream.n
    length = len(copies(stream, 0))
    first, offset = divmod(start, length)
    earlier = np.zeros(stream.n, dtype=np.int64)
    for part in range(first):
        earlier += np.bincount(copies(stream, part), minlength=stream.n)
    row = np.concatenate([shuffled(part) for part in range(first, (start + stream.n - 1) // length + 1)])
    earlier += np.bincount(row[:offset], minlength=stream.n)
    return row[offset : offset + stream.n], earlier


def _plain(stream: DrawStream, epoch: int) -> tuple[Integers, Integers]:
    """A permutation of the photos an epoch."""
    return _listed(stream, epoch, lambda stream, part: np.arange(stream.n))


def _oversampled(stream: DrawStream, epoch: int) -> tuple[Integers, Integers]:
    """Every label to the largest label's count."""
    return _listed(stream, epoch, _balanced)


def _balanced(stream: DrawStream, part: int) -> Integers:
    """One pass's list: of each label whole copies, then a shuffled remainder. The contest project's way."""
    generator = stream.generator(REMAINDER_STREAM, part)
    largest = int(stream.counts.max())
    pieces = []
    for label in np.flatnonzero(stream.counts):
        members = np.flatnonzero(stream.labels == label)
        copies, rest = divmod(largest, len(members))
        pieces += [np.tile(members, copies), generator.permutation(members)[:rest]]
    return np.concatenate(pieces)


def _occurrences(values: Integers) -> Integers:
    """For each value, how often it stands before itself: [7, 5, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    group = np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    result = np.empty(len(values), dtype=np.int64)
    result[order] = np.arange(len(values)) - group
    return result


SAMPLERS: dict[str, Callable[[DrawStream, int], tuple[Integers, Integers]]] = {
    "none": _plain,
    "oversample": _oversampled,
    "weighted": _weighted,
    "square_root": _square_root,
}
