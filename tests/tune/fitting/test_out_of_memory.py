"""A trial that runs out of memory goes on in smaller micro-batches, from where it was, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.errors import OutOfMemory
from maskcls.machine import set_threads, use_deterministic_kernels
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.train import main
from maskcls.training.conditions import segments, unequal
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.model_fit import ModelFit
from tests.commands import call
from tests.conftest import DemoFaces
from tests.tune.searches import make_plan, new_run, table
from tests.tune.short_of_memory import FitsShortOfMemory, Memory, of_the_allocator, of_torch
from tune.fitting.attempts import halved
from tune.fitting.curve import curve, read_curve
from tune.fitting.failures import state_of
from tune.fitting.request import TrialRequest
from tune.fitting.worker import run_fit
from tune.runs.folder import SearchRun
from tune.runs.stopping import Reason
from tune.search.driver import run_search
from tune.states import TrialState

# 84 photos to train on in six batches of 14.
RECIPE = Recipe(
    backbone="test_resnet",
    weights="none",
    image_size=32,
    frozen_stages=0,
    epochs=3,
    batch_size=16,
    lr_body=1e-3,
    lr_head=1e-3,
)
STEPS = 6


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, demo_faces: DemoFaces) -> FaceDataset:
    return prepare(demo_faces(18, 1), cache=CacheOptions(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    set_threads(before)


@pytest.fixture
def request_(tmp_path: Path, faces: FaceDataset) -> TrialRequest:
    run = new_run(tmp_path)
    faces.save(run.data)
    folder = run.trial("0000")
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(RECIPE.to_json())
    return TrialRequest("0000", RECIPE.model_dump(), folder, run.path, 1, 0.0)


def rows(request: TrialRequest, faces: FaceDataset) -> list[dict[str, Any]]:
    return list(curve(request, lambda asked: run_fit(asked, cache=faces.cache, shared=False)))


def fitted(faces: FaceDataset, micro_batch: int) -> list[dict[str, Any]]:
    """The curve of a fit that is given from the beginning how much fits."""
    set_threads(1)
    use_deterministic_kernels()
    return [result.to_row() for result in Fit(RECIPE, FitData.of(faces, RECIPE), micro_batch=micro_batch).epochs()]


def test_half_rounded_up() -> None:
    assert [halved(n) for n in (64, 50, 25, 3, 2)] == [32, 25, 13, 2, 1]


@pytest.mark.parametrize("fail", [pytest.param(of_torch, marks=pytest.mark.soak), of_the_allocator])
def test_it_goes_on_in_micro_batches_of_half_the_size(
    fail: Callable[[], None], request_: TrialRequest, faces: FaceDataset
) -> None:
    with Memory(5, fail=fail).short() as memory:
        reported = rows(request_, faces)
    assert memory.seen[:4] == [14, 7, 3, 4], "16 and 8 did not fit; a batch of 14 in parts of at most 4 has four"
    assert max(memory.seen[2:]) <= 4
    assert sum(memory.seen[2:]) == 3 * 84, "every photo of every epoch, once"
    assert memory.alive == [0, 0, 0], "what failed is gone before the next attempt is built"
    assert [(row["epoch"], row["micro_batch"], row["message"]) for row in reported] == [
        (epoch, 4, "in micro-batches of 4: 8 did not fit") for epoch in (1, 2, 3)
    ]
    assert [segment.conditions.micro_batch for segment in segments(request_.folder)] == [4]
    assert all(unequal(row, expected) == [] for row, expected in zip(reported, fitted(faces, 4), strict=True))


def test_where_all_fits_nothing_is_said_and_nothing_is_different(request_: TrialRequest, faces: FaceDataset) -> None:
    reported = rows(request_, faces)
    assert not any({"micro_batch", "message"} & row.keys() for row in reported)
    assert all(unequal(row, expected) == [] for row, expected in zip(reported, fitted(faces, 0), strict=True))
    assert [segment.conditions.micro_batch for segment in segments(request_.folder)] == [16]


@pytest.mark.soak
def test_epochs_that_were_done_stand_and_the_curve_can_be_had_again(
    request_: TrialRequest, faces: FaceDataset, tmp_path: Path
) -> None:
    with Memory(8, after=STEPS + 2).short():
        reported = rows(request_, faces)
    assert [row["epoch"] for row in reported] == [1, 2, 3]
    assert [row.get("micro_batch") for row in reported] == [None, 8, 8]
    assert reported[2]["seconds"] == pytest.approx(sum(row["epoch_seconds"] for row in read_curve(request_.folder)))
    assert [(segment.from_epoch, segment.conditions.micro_batch) for segment in segments(request_.folder)] == [
        (1, 16),
        (2, 8),
    ]
    assert unequal(reported[0], fitted(faces, 0)[0]) == []
    said = call(
        main, "--cache", faces.cache.folder, "--trial", request_.folder.parents[1] / "0", "--out", tmp_path / "again"
    )
    assert said.status == 0, said.err
    assert "3 of 3 recorded epochs of trial 0000 of one are equal to the bit." in said.out
    assert "micro-batch 16, torch" in said.out
    assert "micro-batch 8, torch" in said.out


def test_short_memory_in_validation_halves_its_blocks_and_not_the_training(
    request_: TrialRequest, faces: FaceDataset, tmp_path: Path
) -> None:
    with Memory(16, most_validated=20).short() as memory:
        reported = rows(request_, faces)
    assert len(memory.models) == 1, "nothing is built or trained again"
    assert set(memory.seen) == {14}, "whole batches"
    assert len(memory.seen) == 3 * STEPS
    assert memory.validated[:3] == [64, 32, 16]
    assert set(memory.validated[3:]) == {16}, "what did not fit is not tried again"
    assert {(row.get("micro_batch"), row["message"]) for row in reported} == {
        (None, "validated in blocks of 16 photos: more did not fit")
    }
    (segment,) = segments(request_.folder)
    assert (segment.from_epoch, segment.conditions.micro_batch, segment.conditions.validation_block) == (1, 16, 16)
    # A convolution gives the same bits in blocks of 16, 32 and 64.
    assert all(unequal(row, expected) == [] for row, expected in zip(reported, fitted(faces, 0), strict=True))
    said = call(
        main, "--cache", faces.cache.folder, "--trial", request_.folder.parents[1] / "0", "--out", tmp_path / "again"
    )
    assert "3 of 3 recorded epochs of trial 0000 of one are equal to the bit." in said.out


def test_no_memory_at_all_in_validation_ends_the_fit_as_it_is(request_: TrialRequest, faces: FaceDataset) -> None:
    with (
        Memory(16, most_validated=0).short() as memory,
        pytest.raises(OutOfMemory, match=r"Not even one photo at a time fits in validation\. CUDA out of memory"),
    ):
        rows(request_, faces)
    assert memory.validated == [64, 32, 16, 8, 4, 2, 1]
    assert len(memory.models) == 1, "smaller batches in training would not help"


def test_a_trial_taken_up_again_begins_with_what_it_had_come_to(request_: TrialRequest, faces: FaceDataset) -> None:
    with Memory(8).short():
        objective = run_fit(request_, cache=faces.cache, shared=False)
        first = next(objective)
        objective.close()
    with Memory(8).short() as memory:
        reported = rows(request_, faces)
    assert set(memory.seen) == {7}
    assert len(memory.models) == 1
    assert [row["micro_batch"] for row in reported] == [8, 8, 8]
    assert unequal(first, reported[0]) == []
    assert [segment.from_epoch for segment in segments(request_.folder)] == [1]


def test_it_gives_up_where_not_even_one_photo_fits(request_: TrialRequest, faces: FaceDataset) -> None:
    with (
        Memory(0).short() as memory,
        pytest.raises(OutOfMemory, match=r"the smallest part of a batch fits\. CUDA out of memory") as reported,
    ):
        rows(request_, faces)
    assert memory.seen == [14, 7, 3, 2, 2], "the first parts; of one photo the last maps cannot be normalised"
    assert state_of(reported.value) == TrialState.OUT_OF_MEMORY
    assert not (request_.folder / "state.pt").exists()


def test_a_model_that_does_not_fit_itself_is_not_tried_again(
    request_: TrialRequest, faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def too_large(recipe: Recipe, *, pretrained: bool) -> None:
        tried.append(recipe.backbone)
        of_torch()

    monkeypatch.setattr("maskcls.training.fit.build_models", too_large)
    with pytest.raises(torch.OutOfMemoryError) as reported:
        rows(request_, faces)
    assert len(tried) == 1
    assert state_of(reported.value) == TrialState.OUT_OF_MEMORY


def test_a_checkpoint_that_does_not_fit_is_not_tried_with_smaller_batches(
    request_: TrialRequest, faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = run_fit(request_, cache=faces.cache, shared=False)
    next(objective)
    objective.close()
    tried = []

    def too_large(fit: ModelFit, state: dict[str, Any]) -> None:
        tried.append(fit.micro_batch)
        of_the_allocator()

    monkeypatch.setattr(ModelFit, "load_optimizer", too_large)
    with pytest.raises(OutOfMemory, match=r"The checkpoint in .*0000 does not fit into the memory\. .*allocate"):
        rows(request_, faces)
    assert tried == [16]
    assert (request_.folder / "state.pt").exists()


def test_another_error_is_not_tried_again(request_: TrialRequest, faces: FaceDataset) -> None:
    def broken() -> None:
        raise KeyError("stem")

    with Memory(0, fail=broken).short() as memory, pytest.raises(KeyError, match="stem"):
        rows(request_, faces)
    assert memory.seen == [14]


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_searchs_record_and_leaderboard_say_so(faces: FaceDataset, tmp_path: Path) -> None:
    run: SearchRun = new_run(tmp_path)
    faces.save(run.data)
    small = {key: getattr(RECIPE, key) for key in ("backbone", "weights", "image_size", "batch_size")}
    plan = make_plan(2, {**small, "epochs": 2, "head": "linear", "frozen_stages": 0}, scheduler="none")
    assert run_search(plan, run, FitsShortOfMemory(8)).reason == Reason.FINISHED
    assert {(row["state"], row["message"]) for row in table(run)} == {
        (TrialState.COMPLETE, "in micro-batches of 8: 16 did not fit")
    }
    assert np.isfinite([float(row["best_validation_f1"]) for row in table(run)]).all()
    hardware = json.loads((run.trial("0001") / "hardware.json").read_text())
    assert [segment["micro_batch"] for segment in hardware] == [8]
