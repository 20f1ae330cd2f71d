"""The hash of what is seen, against its definition; the search, against comparing all pairs one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from maskcls.data import near_duplicates
from maskcls.data.near_duplicates import (
    BITS,
    MAX_BITS_APART,
    NEVER,
    Pair,
    by_people,
    closest_beyond,
    perceptual_hash,
    search,
)
from tests.maskcls.reports.explore.portraits import copies, portrait


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.bitwise_count(one ^ other).sum())


def test_the_hash_is_what_its_docstring_says() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    waves = (
        np.cos(np.pi * np.outer(np.arange(32), 2 * np.arange(32) + 1) / 64)
        * np.sqrt(np.where(np.arange(32) == 0, 1, 2) / 32)[:, None]
    )
    low = (waves @ grey.astype(float) @ waves.T)[:16, :16].ravel()
    expected = low > np.median(low[1:])
    bits = np.unpackbits(perceptual_hash(np.dstack([grey] * 3)).view(np.uint8))
    assert bits.shape == (BITS + 1,)
    assert bits[0] == 0
    assert (bits[1:] == expected[1:]).all()
    assert bits.sum() == BITS // 2


@pytest.mark.parametrize("number", range(5))
def test_copies_lie_within_the_limit_and_others_far_beyond(number: int) -> None:
    mine = perceptual_hash(portrait(number))
    distances = {name: apart(mine, perceptual_hash(copy)) for name, copy in copies(portrait(number)).items()}
    assert max(distances.values()) <= MAX_BITS_APART, distances
    assert (
        min(apart(mine, perceptual_hash(portrait(other))) for other in range(40) if other != number)
        > 2 * MAX_BITS_APART
    )


def test_photos_of_one_colour_have_no_bits() -> None:
    for colour in ((0, 0, 0), (255, 255, 255), (17, 200, 93)):
        assert not perceptual_hash(np.full((50, 40, 3), colour, np.uint8)).any()


def made_hashes(n: int) -> np.ndarray:
    """Random hashes of three clusters, so that all kinds of distances occur; the first bit is 0 as in every hash."""
    rng = np.random.default_rng(1)
    centres = rng.integers(0, 2, (3, 256), np.uint8)
    bits = centres[rng.integers(0, 3, n)] ^ (rng.random((n, 256)) < rng.uniform(0, 0.12, (n, 1)))
    bits[:, 0] = 0
    return np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64)


@pytest.mark.parametrize("block", [1, 7, 512])
def test_the_search_finds_what_comparing_all_pairs_finds(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", block)
    n = 60
    hashes, persons = made_hashes(n), np.arange(n) * 7 % 20
    contents = np.arange(n)
    contents[[5, 17, 40]] = 5
    hashes[[17, 40]] = hashes[5]
    near = search(hashes, persons, contents)
    pairs = [Pair(i, j, apart(hashes[i], hashes[j])) for i, j in itertools.combinations(range(n), 2)]
    for same, found, count in ((False, near.across, near.n_across), (True, near.within, near.n_within)):
        expected = {
            pair
            for pair in pairs
            if pair.bits_apart <= MAX_BITS_APART
            and (persons[pair.first] == persons[pair.second]) == same
            and contents[pair.first] != contents[pair.second]
        }
        assert len(expected) > 3
        assert set(found) == expected
        assert count == len(found) == len(expected)
        assert [pair.bits_apart for pair in found] == sorted(pair.bits_apart for pair in expected)
    for row in range(n):
        others = [(apart(hashes[row], hashes[other]), other) for other in range(n) if persons[other] != persons[row]]
        assert near.nearest_bits[row] == min(others)[0]
        assert (near.nearest_bits[row], near.nearest_row[row]) in others


def test_more_pairs_than_are_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 10)
    near = search(np.zeros((40, 4), np.uint64), np.arange(40) // 2, np.arange(40))
    assert (near.n_within, near.n_across) == (20, 40 * 39 // 2 - 20)
    assert (len(near.within), len(near.across)) == (10, 10)


def test_one_person_alone_has_no_nearest() -> None:
    near = search(made_hashes(3), np.zeros(3, np.int64), np.arange(3))
    assert near.across == []
    assert near.nearest_row.tolist() == [-1] * 3
    assert near.nearest_bits.tolist() == [NEVER] * 3
    assert closest_beyond(near, np.zeros(3, np.int64), 5) == []


def test_pairs_are_reported_by_people() -> None:
    persons = np.array([0, 0, 1, 1, 2])
    pairs = [Pair(0, 2, 3), Pair(1, 3, 4), Pair(2, 4, 5), Pair(1, 2, 6)]
    assert by_people(pairs, persons) == [(Pair(0, 2, 3), 3), (Pair(2, 4, 5), 1)]


def test_the_closest_beyond_the_limit() -> None:
    hashes = np.zeros((4, 4), np.uint64)
    hashes[1, 0], hashes[2, 1], hashes[3, 1] = 0b1, 2**40 - 1, 2**63 - 1
    near = search(hashes, np.arange(4), np.arange(4), max_bits=10)
    assert near.across == [Pair(0, 1, 1)]
    assert closest_beyond(near, np.arange(4), 5) == [Pair(2, 3, 23)]
