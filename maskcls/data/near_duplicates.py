"""Near-duplicates: photos that look the same though their files differ, found by a hash of what is seen.

The hash is the DCT hash of pHash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010)
with 16x16 coefficients instead of 8x8, because portraits are very similar at 8x8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from maskcls.data.decoding.decode import Image

EDGE_PX, LOW = 32, 16
BITS = LOW * LOW - 1
MAX_BITS_APART = 24
"""Two photos at most this many bits apart are near-duplicates.

Among 5.2 million pairs of real photos of different people (aligned faces with drawn masks) the closest were 50 bits
apart. Of 300 copies each, those recompressed (JPEG quality 20, 40), resized to half or one and a half times, noisier
(sd 8 of 255) or grey stayed within 16 bits; of those brightened (1.1 x + 25, gamma 0.7) 99 of 100 stayed within 24.
Cropping by 2 % a side moves a photo by 24 bits in the median, by 4 % by 54: that is not found.
"""

BLOCK = 512
MAX_PAIRS = 100_000
"""Pairs that are kept; more are only counted. A folder of one photo under 2,700 names must not fill the memory."""
NEVER = 255  # hashes differ in 254 bits at most: half of the coefficients lie above their median


class Pair(NamedTuple):
    """Two rows, the smaller one first, and in how many bits their hashes differ."""

    first: int
    second: int
    bits_apart: int


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of photos at most `max_bits` apart whose contents differ, closest first.

    `across` are of two people, `within` of one; `n_across` and `n_within` count all of them, even if more than
    MAX_PAIRS were not kept. `nearest_row` and `nearest_bits` (n,) give each photo's nearest photo of another person,
    -1 and NEVER if there is none.
    """

    across: list[Pair]
    within: list[Pair]
    n_across: int
    n_within: int
    nearest_row: NDArray[np.int64]
    nearest_bits: NDArray[np.uint8]
    max_bits: int


def perceptual_hash(rgb: Image) -> NDArray[np.uint64]:
    """Return 256 bits of uint8 RGB (height, width, 3), as four uint64.

    The photo is made grey and resized to 32x32 px by area; of its DCT-II the 16x16 coefficients of lowest frequency
    are taken, row by row. A bit is set where the coefficient lies above the median of all but the first. The first is
    the mean brightness; its bit is always 0.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (EDGE_PX, EDGE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    # Rounded, so that a photo of one colour has no bits, rather than those of rounding errors.
    low = np.round(cv2.dct(small)[:LOW, :LOW].ravel(), 2)  # (256,)
    above = low > np.median(low[1:])
    above[0] = False
    return np.packbits(above).view(np.uint64)


def search(
    hashes: NDArray[np.uint64], persons: NDArray[np.int64], contents: NDArray[np.int64], max_bits: int = MAX_BITS_APART
) -> NearDuplicates:
    """Compare every photo with every other, in blocks.

    Args:
        hashes: (n, 4), from `perceptual_hash`.
        persons: (n,), each photo's person as a number.
        contents: (n,), equal where the files are, byte for byte: those pairs are not counted here.
        max_bits: how far apart a pair may be.
    """
    n = len(hashes)
    nearest_row, nearest_bits = np.full(n, -1), np.full(n, NEVER, np.uint8)
    kept: dict[bool, list[Pair]] = {True: [], False: []}
    counts = {True: 0, False: 0}
    for start, apart in _blocks(hashes):
        first, second = np.nonzero(apart <= max_bits)
        bits = apart[first, second]
        first, second = first + start, second + start
        for same in (True, False):
            wanted = ((persons[first] == persons[second]) == same) & (contents[first] != contents[second])
            counts[same] += int(wanted.sum())
            chosen = np.flatnonzero(wanted)[: MAX_PAIRS - len(kept[same])]
            kept[same] += map(Pair, first[chosen].tolist(), second[chosen].tolist(), bits[chosen].tolist())
        np.putmask(apart, persons[start : start + len(apart), None] == persons[None, start:], NEVER)
        for axis, rows in ((1, slice(start, start + len(apart))), (0, slice(start, n))):
            _keep_nearer(nearest_row[rows], nearest_bits[rows], apart, axis, start)
    across, within = (sorted(kept[same], key=lambda pair: pair.bits_apart) for same in (False, True))
    return NearDuplicates(across, within, counts[False], counts[True], nearest_row, nearest_bits, max_bits)


def _blocks(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield for each block of rows its first row, and its distances, in bits, from all rows after it.

    Distances are (rows, n - first row); NEVER from a row itself and from rows before it.
    """
    words = np.ascontiguousarray(hashes.T)
    for start in range(0, len(hashes), BLOCK):
        mine, others = words[:, start : start + BLOCK], words[:, start:]
        apart = np.zeros((mine.shape[1], others.shape[1]), np.uint8)  # (rows, n - start)
        for word, other in zip(mine, others, strict=True):
            apart += np.bitwise_count(word[:, None] ^ other[None, :])
        apart[np.tril_indices(len(apart))] = NEVER
        yield start, apart


def _keep_nearer(
    row: NDArray[np.int64], bits: NDArray[np.uint8], apart: NDArray[np.uint8], axis: int, start: int
) -> None:
    """Update `row` and `bits` in place with what is nearer along an axis of a block."""
    where = apart.argmin(axis)
    found = np.take_along_axis(apart, np.expand_dims(where, axis), axis).squeeze(axis)
    nearer = found < bits
    row[nearer], bits[nearer] = where[nearer] + start, found[nearer]


def by_people(pairs: Iterable[Pair], persons: NDArray[np.int64]) -> list[tuple[Pair, int]]:
    """Return for each pair of people their first pair of photos and the number of such pairs, in order of the first."""
    found: dict[tuple[int, int], tuple[Pair, int]] = {}
    for pair in pairs:
        whose = (int(persons[pair.first]), int(persons[pair.second]))
        key = (min(whose), max(whose))
        first, count = found.get(key, (pair, 0))
        found[key] = (first, count + 1)
    return list(found.values())


def closest_beyond(near: NearDuplicates, persons: NDArray[np.int64], limit: int) -> list[Pair]:
    """Return the closest pairs of people that are not near-duplicates, by each photo's nearest of another person.

    There is one pair of photos for two people.
    """
    order = np.argsort(near.nearest_bits, kind="stable")
    order = order[(near.nearest_bits[order] > near.max_bits) & (near.nearest_row[order] >= 0)]
    ends = ((int(row), int(near.nearest_row[row])) for row in order)
    pairs = (Pair(min(rows), max(rows), int(near.nearest_bits[rows[0]])) for rows in ends)
    return [pair for pair, _ in by_people(pairs, persons)[:limit]]
