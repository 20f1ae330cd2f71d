"""One way to run a fit: a trial, a repeat and a comparison's fit of one recipe, seed and split are the same fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from maskcls.data.dataset import FaceDataset
from maskcls.errors import DataError, OutOfMemory
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.conditions import HARDWARE, unequal
from maskcls.training.fit import Fit
from maskcls.training.result import EpochResult
from tests.tune.selection.small_run import BASE, small_run
from tests.tune.short_of_memory import Memory
from tune.compare.fits import fit_and_evaluate
from tune.fitting.curve import read_curve
from tune.fitting.pool import work_on
from tune.fitting.request import FitRequest, TrialRequest
from tune.fitting.result import FitResult
from tune.fitting.worker import After, run_and_report, run_fit
from tune.runs.folder import ComparisonRun, SearchRun
from tune.selection.fits import repeat_fit
from tune.states import TrialState

RECIPE = BASE.override({"epochs": 2, "seed": 3, "batch_size": 64})
SPLIT = "data/split.json"

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def made(tmp_path: Path, demo_cache: Path) -> tuple[SearchRun, FaceDataset]:
    return small_run(tmp_path, demo_cache)


def of_comparison(run: SearchRun, faces: FaceDataset) -> FitRequest:
    """A comparison's fit on the run's photos and split, in a run of its own."""
    comparison = ComparisonRun.create(run.path.parent, "compared")
    faces.save(comparison.data)
    settings = {"repeat": 0, "split": SPLIT, "treatment": "", "readings": []}
    folder = comparison.fit("one")
    return FitRequest("one", RECIPE.model_dump(), folder, comparison.path, 1, 0.0, settings, split=SPLIT)


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [{**row, "seconds": None} for row in read_curve(folder)]


@pytest.mark.slow
def test_trial_repeat_and_comparison_give_the_same_curve(made: tuple[SearchRun, FaceDataset], demo_cache: Path) -> None:
    run, faces = made
    cache = CacheOptions(demo_cache, 1.0)
    trial = TrialRequest("0042", RECIPE.model_dump(), run.trial("0042"), run.path, 1, 0.0)
    repeat = FitRequest("again", RECIPE.model_dump(), run.finalists / "again", run.path, 1, 0.0, {}, split=SPLIT)
    compared = of_comparison(run, faces)
    outcomes = [
        run_and_report(trial, lambda request: run_fit(request, cache=cache)),
        work_on(repeat, lambda request: repeat_fit(request, cache=cache)),
        work_on(compared, lambda request: fit_and_evaluate(request, cache=cache)),
    ]
    assert [outcome.state for outcome in outcomes] == [TrialState.COMPLETE] * 3, [one.message for one in outcomes]
    curves = [read_curve(request.folder) for request in (trial, repeat, compared)]
    assert len(curves[0]) == 2
    for curve in curves[1:]:
        assert [unequal(*pair) for pair in zip(curves[0], curve, strict=True)] == [[], []]
    conditions = [json.loads((request.folder / HARDWARE).read_text()) for request in (trial, repeat, compared)]
    assert conditions[1:] == conditions[:1] * 2, "each records what its numbers depend on, also when it is done"


@pytest.mark.slow
def test_a_comparison_that_runs_out_of_memory_goes_on_in_micro_batches(
    made: tuple[SearchRun, FaceDataset], demo_cache: Path
) -> None:
    request = of_comparison(*made)
    with Memory(16).short():
        outcome = work_on(request, lambda asked: fit_and_evaluate(asked, cache=CacheOptions(demo_cache, 1.0)))
    assert outcome.state == TrialState.COMPLETE, outcome.message
    assert [(row["micro_batch"], row["message"]) for row in read_curve(request.folder)] == [
        (16, "in micro-batches of 16: 32 did not fit")
    ] * 2
    (segment,) = json.loads((request.folder / HARDWARE).read_text())
    assert segment["micro_batch"] == 16


@pytest.mark.slow
def test_a_comparison_that_found_no_memory_at_all_begins_with_whole_batches_where_there_is_more(
    made: tuple[SearchRun, FaceDataset], demo_cache: Path
) -> None:
    request = of_comparison(*made)
    with Memory(0).short():
        outcome = work_on(request, lambda asked: fit_and_evaluate(asked, cache=CacheOptions(demo_cache, 1.0)))
    assert (outcome.state, outcome.message[:17]) == (TrialState.OUT_OF_MEMORY, "Not even the smal")
    outcome = work_on(request, lambda asked: fit_and_evaluate(asked, cache=CacheOptions(demo_cache, 1.0)))
    assert outcome.state == TrialState.COMPLETE, outcome.message
    assert not any("micro_batch" in row for row in read_curve(request.folder))


def test_an_evaluation_without_memory_does_not_shrink_the_training(
    made: tuple[SearchRun, FaceDataset], demo_cache: Path
) -> None:
    class NoMemoryOnce(After):
        def before_saving(self, fit: Fit, result: EpochResult, is_new: bool) -> None:
            if is_new:
                raise OutOfMemory("no room to predict")

    with Memory(64).short() as memory, pytest.raises(OutOfMemory, match="no room to predict"):
        list(run_fit(of_comparison(*made), cache=CacheOptions(demo_cache, 1.0), after=NoMemoryOnce()))
    assert len(memory.models) == 1, "it was not tried again in smaller batches"


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"state": "half"}')
    with pytest.raises(DataError, match=r"result\.json can't be read: .*Remove it to do this fit again"):
        FitResult.read(tmp_path)


def test_a_comparison_uses_deterministic_kernels(
    made: tuple[SearchRun, FaceDataset], demo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    request = of_comparison(*made)
    fit = fit_and_evaluate(request, cache=CacheOptions(demo_cache, 1.0))
    next(fit)
    fit.close()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
