"""What every sampler owes (one conformance suite over all of them), then what each promises."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from maskcls.data.sampling import SAMPLERS, DrawStream
from maskcls.errors import CallError, DataError
from maskcls.labels import UNKNOWN
from maskcls.recipe import Recipe

LABELS = np.repeat([0, 1, 2], [23, 6, 4])
N = len(LABELS)
EPOCHS = 12


def stream(sampler: str, seed: int = 0, member: int = 0) -> DrawStream:
    return DrawStream(LABELS, 3, sampler, seed, member)


def test_the_recipes_samplers_are_these() -> None:
    assert set(Recipe.model_json_schema()["properties"]["sampler"]["enum"]) == set(SAMPLERS)
    assert len(SAMPLERS) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestEverySampler:
    def test_an_epoch_is_n_draws_of_training_photos(self, sampler: str) -> None:
        for epoch in range(EPOCHS):
            positions, numbers = stream(sampler).epoch(epoch)
            assert positions.shape == numbers.shape == (N,)
            assert positions.dtype == numbers.dtype == np.int64
            assert set(positions) <= set(range(N))

    def test_shorter_epochs_are_cut_from_a_stream_of_the_same_kind(self, sampler: str) -> None:
        short = DrawStream(LABELS, 3, sampler, 0, 0, drawn=7)
        drawn = [0] * N
        for epoch in range(EPOCHS):
            positions, numbers = short.epoch(epoch)
            assert positions.shape == numbers.shape == (7,)
            for position, number in zip(positions, numbers, strict=True):
                assert number == drawn[position], "the photo's draws before, over the whole fit"
                drawn[position] += 1
        assert np.array_equal(DrawStream(LABELS, 3, sampler, 0, 0, drawn=N + 1).epoch(2), stream(sampler).epoch(2))

    def test_draw_numbers_count_a_photos_draws_over_the_whole_fit(self, sampler: str) -> None:
        drawn = [0] * N
        for epoch in range(EPOCHS):
            for position, number in zip(*stream(sampler).epoch(epoch), strict=True):
                assert number == drawn[position]
                drawn[position] += 1

    def test_any_epoch_may_be_asked_for_first(self, sampler: str) -> None:
        one = stream(sampler)
        backwards = {epoch: one.epoch(epoch) for epoch in reversed(range(EPOCHS))}
        for epoch in range(EPOCHS):
            fresh = stream(sampler).epoch(epoch)
            assert np.array_equal(fresh[0], backwards[epoch][0])
            assert np.array_equal(fresh[1], backwards[epoch][1])

    def test_a_fresh_process_draws_the_same(self, sampler: str) -> None:
        code = (
            "import numpy as np; from maskcls.data.sampling import DrawStream\n"
            f"s = DrawStream(np.repeat([0, 1, 2], [23, 6, 4]), 3, {sampler!r}, 7, 1)\nprint(s.epoch(5)[0].tolist())"
        )
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert printed.strip() == str(stream(sampler, 7, 1).epoch(5)[0].tolist())

    def test_seeds_members_and_epochs_draw_differently(self, sampler: str) -> None:
        orders = [
            stream(sampler, seed, member).epoch(epoch)[0]
            for seed, member, epoch in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
        ]
        assert len({order.tobytes() for order in orders}) == 4

    def test_labels_come_mixed_not_in_blocks(self, sampler: str) -> None:
        labels = LABELS[stream(sampler).epoch(0)[0]]
        assert np.count_nonzero(np.diff(labels)) > 6

    def test_a_label_without_photos_is_left_out(self, sampler: str) -> None:
        positions, _ = DrawStream(np.array([0, 0, 2, 2]), 4, sampler, 0, 0).epoch(0)
        assert len(positions) == 4


def test_none_draws_every_photo_once_an_epoch() -> None:
    for epoch in range(3):
        positions, numbers = stream("none").epoch(epoch)
        assert sorted(positions) == list(range(N))
        assert set(numbers) == {epoch}


def test_oversample_passes_hold_whole_copies_and_a_remainder() -> None:
    """A pass has 3 * 23 draws; of label 1's 6 photos each stands there 3 times and 5 of them once more."""
    largest, length = 23, 3 * 23
    drawn = np.concatenate([stream("oversample").epoch(epoch)[0] for epoch in range(3 * length // N + 1)])
    remainders = set()
    for part in range(3):
        counts = np.bincount(drawn[part * length : (part + 1) * length], minlength=N)
        for label in range(3):
            of_label = counts[label == LABELS]
            assert of_label.sum() == largest
            assert of_label.max() - of_label.min() <= 1
        remainders.add(tuple(counts))
    assert len(remainders) > 1


def test_a_balanced_list_runs_on_into_the_next_epoch() -> None:
    """Two epochs of 33 draws end 3 short of a pass of 69: no photo of the largest label is drawn twice before that."""
    drawn = np.concatenate([stream("oversample").epoch(epoch)[0] for epoch in range(2)])
    assert np.bincount(drawn, minlength=N)[LABELS == 0].max() == 1


@pytest.mark.parametrize("sampler", ["oversample", "weighted"])
def test_balancing_samplers_draw_labels_alike(sampler: str) -> None:
    drawn = np.concatenate([stream(sampler).epoch(epoch)[0] for epoch in range(60)])
    shares = np.bincount(LABELS[drawn]) / len(drawn)
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)


def test_square_root_lies_halfway() -> None:
    drawn = np.concatenate([stream("square_root").epoch(epoch)[0] for epoch in range(120)])
    roots = np.sqrt([23, 6, 4])
    assert np.bincount(LABELS[drawn]) / len(drawn) == pytest.approx(roots / roots.sum(), abs=0.03)


def test_weighted_draws_photos_of_a_label_alike() -> None:
    drawn = np.concatenate([stream("weighted").epoch(epoch)[0] for epoch in range(300)])
    counts = np.bincount(drawn, minlength=N) / len(drawn)
    assert counts[LABELS == 2] == pytest.approx([1 / 12] * 4, abs=0.012)
    assert counts[LABELS == 0] == pytest.approx([1 / 69] * 23, abs=0.006)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_photos_without_a_label_keep_their_share_and_the_others_are_balanced_as_without_them(sampler: str) -> None:
    """Nine of 42 photos; among the others each label has the share that it would have if they were not there."""
    labels = np.concatenate([LABELS[:10], np.full(9, UNKNOWN), LABELS[10:]])
    draws = DrawStream(labels, 3, sampler, 0, 0)
    drawn = labels[np.concatenate([draws.epoch(epoch)[0] for epoch in range(40)])]
    plain = LABELS[np.concatenate([stream(sampler).epoch(epoch)[0] for epoch in range(40)])]
    assert (drawn == UNKNOWN).mean() == pytest.approx(9 / 42, abs=0.03)
    known = drawn[drawn != UNKNOWN]
    assert np.bincount(known) / len(known) == pytest.approx(np.bincount(plain) / len(plain), abs=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_where_no_label_is_known_all_photos_are_drawn_alike(sampler: str) -> None:
    draws = DrawStream(np.full(10, UNKNOWN), 3, sampler, 0, 0)
    counts = np.bincount(np.concatenate([draws.epoch(epoch)[0] for epoch in range(60)]), minlength=10)
    assert counts / counts.sum() == pytest.approx([0.1] * 10, abs=0.04)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(CallError, match=r"no sampler 'smote'\. Samplers: none, oversample, weighted, square_root"):
        stream("smote")
    with pytest.raises(CallError, match="`0 <= label < 2`, or -1 .*, must hold, but got 0 to 2"):
        DrawStream(LABELS, 2, "none", 0, 0)
    with pytest.raises(CallError, match="`epoch >= 0` must hold, but got -1"):
        stream("none").epoch(-1)
    with pytest.raises(DataError, match="no photo to train on"):
        DrawStream(np.array([], dtype=np.int64), 2, "none", 0, 0)
