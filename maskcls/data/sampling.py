"""The order in which an epoch draws training photos: n draws of n photos, or fewer where the recipe says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from maskcls import seeds
from maskcls.errors import CallError, DataError
from maskcls.labels import UNKNOWN

Integers = NDArray[np.int64]

# Samplers that share a seed draw from different streams.
WEIGHTED_STREAM, SHUFFLE_STREAM, REMAINDER_STREAM = range(3)


class DrawStream:
    """The endless stream of a model's draws in a fit, cut into epochs of `drawn`.

    A pure function of its arguments: any epoch may be asked for first, in any process, with the same result.
    """

    def __init__(
        self, labels: NDArray[np.integer], n_labels: int, sampler: str, seed: int, model: int, drawn: int | None = None
    ) -> None:
        """Labels (n,) in 0..n_labels-1 by which the model's photos are balanced; samplers as in SAMPLERS.

        An epoch is `drawn` draws, at most n; None: n.

        A label that no training photo has is left out of the balance. Photos whose label is UNKNOWN keep
        their share of the draws, whatever the balance of the others. Raises CallError for an unknown sampler or a
        label out of range, DataError where there is no training photo at all.
        """
        if sampler not in SAMPLERS:
            raise CallError(f"There is no sampler {sampler!r}. Samplers: {', '.join(SAMPLERS)}.")
        self.labels = np.asarray(labels, dtype=np.int64)
        self.n = len(self.labels)
        self.drawn = self.n if drawn is None else min(drawn, self.n)
        if not self.n:
            raise DataError("There is no photo to train on: at least one expected.")
        if self.labels.min() < UNKNOWN or self.labels.max() >= n_labels:
            raise CallError(
                f"`0 <= label < {n_labels}`, or {UNKNOWN} where it is not known, must hold, "
                f"but got {self.labels.min()} to {self.labels.max()}."
            )
        self.is_known = self.labels != UNKNOWN  # (n,)
        self.counts = np.bincount(self.labels[self.is_known], minlength=n_labels)  # (n_labels,)
        self.sampler, self.seed, self.model = sampler, seed, model
        self._draw = SAMPLERS[sampler]

    def epoch(self, epoch: int) -> tuple[Integers, Integers]:
        """Return the positions (drawn,) that epoch `epoch` (0-based) draws, in order, and each draw's number (drawn,).

        A draw's number says how often its photo was drawn before it in the whole fit, and so names the draw's view.
        """
        if epoch < 0:
            raise CallError(f"`epoch >= 0` must hold, but got {epoch}.")
        positions, earlier = self._draw(self, epoch)
        return positions, earlier[positions] + _occurrences(positions)

    def generator(self, stream: int, part: int) -> np.random.Generator:
        """Return the random numbers of one epoch or pass."""
        return seeds.generator(self.seed, self.model, stream, part)


def _weighted(stream: DrawStream, epoch: int, power: float = 1.0) -> tuple[Integers, Integers]:
    """Draw with replacement, each photo with probability proportional to count ** -power of its label."""
    ends = np.cumsum(_weights(stream, power))  # (n,): photo i is drawn between ends[i - 1] and ends[i]

    def draw(part: int) -> Integers:
        drawn: Integers = np.searchsorted(
            ends, stream.generator(WEIGHTED_STREAM, part).random(stream.drawn) * ends[-1], side="right"
        )
        return np.minimum(drawn, stream.n - 1)  # the product may round up to the very end

    earlier = np.zeros(stream.n, dtype=np.int64)  # (n,): draws of each photo in the epochs before
    for part in range(epoch):  # drawn again, so that any epoch may be asked for first
        earlier += np.bincount(draw(part), minlength=stream.n)
    return draw(epoch), earlier


def _weights(stream: DrawStream, power: float) -> NDArray[np.float64]:
    """Return each photo's weight (n,): count ** -power of its label; where that is not known, the others' mean."""
    weights = np.ones(stream.n)
    known = stream.is_known
    if known.any():
        weights[known] = stream.counts[stream.labels[known]] ** -power
        weights[~known] = weights[known].mean()
    return weights


def _square_root(stream: DrawStream, epoch: int) -> tuple[Integers, Integers]:
    """Draw each label in proportion to the square root of its count: halfway between its own share and an equal one.

    Mahajan et al., "Exploring the Limits of Weakly Supervised Pretraining", ECCV 2018, section 3.
    """
    return _weighted(stream, epoch, power=0.5)


def _listed(stream: DrawStream, epoch: int, copies: Callable[[DrawStream, int], Integers]) -> tuple[Integers, Integers]:
    """Draw passes over a list, each shuffled again; the row of all passes is cut into epochs.

    The list's length is >= n, and the same for every pass.
    """

    def shuffled(part: int) -> Integers:
        return stream.generator(SHUFFLE_STREAM, part).permutation(copies(stream, part))

    start = epoch * stream.drawn
    length = len(copies(stream, 0))
    first, offset = divmod(start, length)  # the epoch begins at draw `offset` of pass `first`
    earlier = np.zeros(stream.n, dtype=np.int64)  # (n,)
    for part in range(first):
        earlier += np.bincount(copies(stream, part), minlength=stream.n)
    # (passes * length,): the passes that the epoch has draws of.
    row = np.concatenate([shuffled(part) for part in range(first, (start + stream.drawn - 1) // length + 1)])
    earlier += np.bincount(row[:offset], minlength=stream.n)  # draws of this pass that the epoch before had
    return row[offset : offset + stream.drawn], earlier


def _plain(stream: DrawStream, epoch: int) -> tuple[Integers, Integers]:
    """Draw a permutation of the photos, then another: one in each epoch, where that draws as many as there are."""
    return _listed(stream, epoch, lambda stream, part: np.arange(stream.n))


def _oversampled(stream: DrawStream, epoch: int) -> tuple[Integers, Integers]:
    """Draw every label as often as the largest label."""
    return _listed(stream, epoch, _balanced)


def _balanced(stream: DrawStream, part: int) -> Integers:
    """Return the list of one pass: of each label whole copies, then a random remainder, as the contest project did."""
    generator = stream.generator(REMAINDER_STREAM, part)
    largest = int(stream.counts.max())
    pieces: list[Integers] = []
    for label in np.flatnonzero(stream.counts):
        members = np.flatnonzero(stream.labels == label)  # (count,) positions
        pieces += _copies(members, largest, generator)
    unlabelled = np.flatnonzero(~stream.is_known)
    if len(unlabelled):  # they keep their share of the draws
        grown = sum(map(len, pieces)) / max(int(stream.counts.sum()), 1) or 1.0  # how often a photo with a label stands
        pieces += _copies(unlabelled, round(grown * len(unlabelled)), generator)
    return np.concatenate(pieces)  # without gaps (largest count * labels that occur,)


def _copies(members: Integers, n: int, generator: np.random.Generator) -> list[Integers]:
    """Return n positions in pieces: whole copies of the members, then a random remainder."""
    copies, rest = divmod(n, len(members))
    return [np.tile(members, copies), generator.permutation(members)[:rest]]


def _occurrences(values: Integers) -> Integers:
    """Count for each value how often it stands before itself: [7, 5, 7, 7] -> [0, 0, 1, 2]."""
    order = np.argsort(values, kind="stable")  # (n,): equal values side by side, in their order
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # where each value's run begins
    group = np.repeat(starts, np.diff(np.r_[starts, len(values)]))  # (n,): the start of each entry's run
    result = np.empty(len(values), dtype=np.int64)
    result[order] = np.arange(len(values)) - group
    return result


SAMPLERS: dict[str, Callable[[DrawStream, int], tuple[Integers, Integers]]] = {
    "none": _plain,
    "oversample": _oversampled,
    "weighted": _weighted,
    "square_root": _square_root,
}
