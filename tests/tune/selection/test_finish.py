"""A finalist that was stopped early is trained to its end: to the bit what the trial would have been."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcls.data.dataset import FaceDataset
from maskcls.machine import set_threads
from maskcls.serving.bundle import read_bundle
from maskcls.serving.export import export_classifiers
from maskcls.serving.predictor import probabilities_of
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.tune.selection.small_run import BASE, fitted, small_run
from tune.fitting.pool import to_do
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.selection.export import export_winner, model_of
from tune.selection.finalists import NOT_DONE, Finalist, TrainedToEnd
from tune.selection.finish import finish_request, has_ended, is_bundle_of, with_end
from tune.selection.fits import choice_fit
from tune.states import TrialState

RECIPE = BASE.override({"epochs": 3, "lr_head": 1e-2})
STOPPED = Finalist("0007", 0.6, 1, RECIPE.model_dump(), (), unfinished=NOT_DONE)


def stop_after_an_epoch(run: SearchRun, faces: FaceDataset, fill: float | None = None) -> Fit:
    """The trial as the scheduler left it, its weights all `fill` if that is given."""
    stopped = Fit(RECIPE, FitData.of(faces, RECIPE))
    next(stopped.epochs())
    if fill is not None:
        with torch.no_grad():
            for parameter in stopped.models[0].parameters():
                parameter.fill_(fill)
    stopped.save(run.trial("0007"))
    return stopped


def test_the_bundle_is_that_of_the_trial_had_it_not_been_stopped(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    set_threads(1)
    stop_after_an_epoch(run, faces)
    left = {file.name: file.read_bytes() for file in run.trial("0007").iterdir()}
    whole = Fit(RECIPE, FitData.of(faces, RECIPE))
    curve = [result.validation_f1 for result in whole.epochs()]

    assert with_end(run, STOPPED).unfinished == "not done"
    request = finish_request(run, STOPPED, cpus=1, gpus=0.0)
    work = functools.partial(choice_fit, cache=CacheOptions(demo_cache, 1.0))
    assert fitted(request, work).state == TrialState.COMPLETE
    assert to_do([request], has_ended) == []
    winner = with_end(run, STOPPED)
    assert (winner.unfinished, winner.validation_f1, winner.model_f1) == ("", 0.6, max(curve))
    export_winner(run, winner)

    bundle = read_bundle(run.best)
    assert bundle.scores["validation"]["f1"] == max(curve)
    assert bundle.scores["epoch"] == curve.index(max(curve)) + 1
    rows = faces.rows("holdout")
    expected = np.exp(whole.log_probs(rows))
    assert np.array_equal(probabilities_of(run.best, faces, rows, "cpu"), expected)
    assert {file.name: file.read_bytes() for file in run.trial("0007").iterdir()} == left, (
        "the trial stays as the search left it"
    )

    # As a part of an ensemble it is the same model; also in a run of a version that kept no checkpoint.
    for name in ("kept", "of an earlier version"):
        export_classifiers(tmp_path / name, [model_of(run, winner, 1.0)], scores={}, faces=faces)
        assert np.array_equal(probabilities_of(tmp_path / name, faces, rows, "cpu"), expected)
        shutil.rmtree(request.checkpoint_folder, ignore_errors=True)
    assert with_end(run, STOPPED) == winner
    shutil.rmtree(run.best)
    assert with_end(run, STOPPED).unfinished == "not done", "its model is lost"
    assert to_do([request], has_ended) == [request]


def test_a_trial_that_diverges_on_its_way_to_the_end_is_not_trained_again(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    set_threads(1)
    stop_after_an_epoch(run, faces, fill=1e30)
    request = finish_request(run, STOPPED, cpus=1, gpus=0.0)
    assert fitted(request, functools.partial(choice_fit, cache=CacheOptions(demo_cache, 1.0))).state == "diverged"
    ended = with_end(run, STOPPED)
    assert ended.diverged
    assert ended.unfinished.startswith("diverged. ")
    assert "not finite" in ended.unfinished
    assert ended.to_end is None
    assert to_do([request], has_ended) == []


def test_a_complete_trial_needs_no_end(tmp_path: Path, demo_cache: Path) -> None:
    run, _ = small_run(tmp_path, demo_cache)
    complete = Finalist("0007", 0.6, 1, RECIPE.model_dump(), ())
    request = finish_request(run, complete, cpus=1, gpus=0.0)
    request.folder.mkdir(parents=True)
    FitResult(TrialState.COMPLETE, "", 3, 2, 0.9, 1.0, 1, 0.0, request.settings, {}).write(request.folder)
    assert with_end(run, complete) == complete
    assert complete.model_f1 == 0.6
    assert Finalist("0007", 0.6, 1, {}, (), to_end=TrainedToEnd(0.7, 3)).model_f1 == 0.7


@pytest.mark.parametrize("content", ["[]", "7", "{}", '{"scores": null}', '{"scores": []}', "{", ""])
def test_a_folder_with_another_json_holds_no_bundle(tmp_path: Path, demo_cache: Path, content: str) -> None:
    run, _ = small_run(tmp_path, demo_cache)
    request = finish_request(run, STOPPED, cpus=1, gpus=0.0)
    run.best.mkdir()
    (run.best / "bundle.json").write_text(content)
    assert not is_bundle_of(run.best, request)
