"""What a trial records of the conditions that its epochs ran under."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maskcls.errors import DataError
from maskcls.recipe import Recipe
from maskcls.training.conditions import HARDWARE, Conditions, Segment, at_epoch, note, segments, unequal

ONE = Conditions(1, "cpu", "Xeon, AVX2", 64, 0, "photos-split", {"torch": "2.15.0", "maskcls": "c0de"})
TWO = replace(ONE, threads=2)


def test_conditions_here_name_all_that_numbers_depend_on() -> None:
    here = Conditions.now(Recipe(batch_size=32), "photos-split", device="cpu", threads=3, loader_workers=2)
    assert (here.threads, here.device, here.micro_batch, here.loader_workers, here.data) == (
        3,
        "cpu",
        32,
        2,
        "photos-split",
    )
    assert list(here.versions) == ["torch", "timm", "numpy", "opencv-python-headless", "albumentations", "maskcls"]
    assert all(here.versions.values())
    model, _, instructions = here.hardware.rpartition(", ")
    assert model
    assert instructions
    again = Conditions.now(Recipe(batch_size=32), "photos-split", device="cpu", threads=3, loader_workers=2)
    assert again == here
    assert again.differences(here) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 2}, ["2 threads instead of 1"]),
        (
            {"device": "cuda", "hardware": "NVIDIA L4"},
            ["device cuda instead of cpu", "hardware NVIDIA L4 instead of Xeon, AVX2"],
        ),
        ({"micro_batch": 32}, ["micro-batch 32 instead of 64"]),
        ({"data": "other-split"}, ["data other-split instead of photos-split"]),
        ({"versions": {"torch": "2.16.0"}}, ["maskcls none instead of c0de", "torch 2.16.0 instead of 2.15.0"]),
        ({"loader_workers": 4}, []),
    ],
)
def test_differences_are_those_that_may_change_a_number(change: dict[str, object], said: list[str]) -> None:
    assert replace(ONE, **change).differences(ONE) == said  # type: ignore[arg-type]


def test_each_change_of_conditions_begins_a_stretch(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    note(folder, ONE, done=0, epochs=6)
    note(folder, ONE, done=2, epochs=6)
    assert segments(folder) == [Segment(1, ONE)], "taken up as it was"
    note(folder, TWO, done=2, epochs=6)
    note(folder, replace(TWO, device="cuda"), done=2, epochs=6)
    note(folder, TWO, done=2, epochs=6)
    assert segments(folder) == [Segment(1, ONE), Segment(3, TWO)], (
        "a start that was killed before an epoch leaves nothing"
    )
    note(folder, ONE, done=5, epochs=6)
    note(folder, TWO, done=6, epochs=6)
    assert segments(folder) == [Segment(1, ONE), Segment(3, TWO), Segment(6, ONE)], (
        "where nothing is left to do, nothing runs"
    )
    assert [at_epoch(segments(folder), epoch) for epoch in (1, 2, 3, 5, 6)] == [ONE, ONE, TWO, TWO, ONE]
    assert at_epoch(segments(folder)[1:], 2) is None
    note(folder, TWO, done=1, epochs=6)
    assert segments(folder) == [Segment(1, ONE), Segment(2, TWO)], "a fit that lost its later epochs"


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    (tmp_path / HARDWARE).write_text('[{"from_epoch": 1}]')
    with pytest.raises(
        DataError, match=r"hardware\.json can't be read: KeyError\('threads'\)\. Expected a list of segments"
    ):
        segments(tmp_path)


def test_epochs_are_compared_by_all_numbers_but_times() -> None:
    epoch = {
        "epoch": 1,
        "validation_f1": 0.5,
        "train_loss": 1.25,
        "photos": 64,
        "scores": {"f1": 0.5, "class_f1": [None, 0.5]},
        "seconds": 3.0,
    }
    assert unequal(epoch, {**epoch, "seconds": 4.0}) == []
    assert unequal(epoch, {**epoch, "train_loss": 1.25 + 2**-50, "scores": {"f1": 0.5}}) == ["train_loss", "scores"]
