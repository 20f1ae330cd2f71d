"""A winner that was stopped early is trained to its end: to the bit what the trial would have been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskcls.machine import set_threads
from maskcls.serving.bundle import read_bundle
from maskcls.serving.predictor import probabilities_of
from maskcls.stores.arrays import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.tune.selection.small_run import BASE, small_run
from tune.runs.stopping import Reason
from tune.selection.finalists import Finalist
from tune.selection.finish import divergence, finish, finish_request, is_bundle_of, is_finished

RECIPE = BASE.override({"epochs": 3, "lr_head": 1e-2})


@pytest.mark.usefixtures("ray_cluster")
def test_the_bundle_is_that_of_the_trial_had_it_not_been_stopped(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    set_threads(1)
    data = FitData.of(faces, RECIPE)
    stopped, whole = Fit(RECIPE, data), Fit(RECIPE, data)
    next(stopped.epochs())
    stopped.save(run.trial("0007"))
    left = {file.name: file.read_bytes() for file in run.trial("0007").iterdir()}
    curve = [result.validation_f1 for result in whole.epochs()]

    winner = Finalist("0007", 0.6, 1, RECIPE.model_dump(), ())
    request = finish_request(run, winner, cpus=1, gpus=0.0)
    assert not is_finished(request)
    outcome = finish(run, winner, cpus=1, gpus=0.0, cache=CacheOptions(demo_cache, 1.0), plain=True)
    assert (outcome.reason, outcome.remaining) == (Reason.FINISHED, 0)
    assert is_finished(request)

    bundle = read_bundle(run.best)
    assert bundle.scores["validation"]["f1"] == max(curve)
    assert bundle.scores["epoch"] == curve.index(max(curve)) + 1
    rows = faces.rows("holdout")
    assert np.array_equal(probabilities_of(run.best, faces, rows, "cpu"), np.exp(whole.log_probs(rows)))
    assert {file.name: file.read_bytes() for file in run.trial("0007").iterdir()} == left, (
        "the trial stays as the search left it"
    )
    other = Finalist("0008", 0.6, 1, RECIPE.model_dump(), ())
    assert not is_finished(finish_request(run, other, cpus=1, gpus=0.0)), "best/ is another trial's"


@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_that_diverges_on_its_way_to_the_end_is_not_trained_again(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    set_threads(1)
    stopped = Fit(RECIPE, FitData.of(faces, RECIPE))
    next(stopped.epochs())
    with torch.no_grad():
        for parameter in stopped.models[0].parameters():
            parameter.fill_(1e30)
    stopped.save(run.trial("0007"))
    winner = Finalist("0007", 0.6, 1, RECIPE.model_dump(), ())
    request = finish_request(run, winner, cpus=1, gpus=0.0)
    times = []
    for _ in range(2):
        outcome = finish(run, winner, cpus=1, gpus=0.0, cache=CacheOptions(demo_cache, 1.0), plain=True)
        assert (outcome.reason, outcome.remaining) == (Reason.FINISHED, 0)
        assert not is_finished(request)
        assert "not finite" in divergence(run, winner)
        times.append((request.folder / "result.json").stat().st_mtime_ns)
    assert times[0] == times[1]


@pytest.mark.parametrize("content", ["[]", "7", "{}", '{"scores": null}', '{"scores": []}', "{", ""])
def test_a_folder_with_another_json_holds_no_bundle(tmp_path: Path, demo_cache: Path, content: str) -> None:
    run, _ = small_run(tmp_path, demo_cache)
    request = finish_request(run, Finalist("0007", 0.6, 1, RECIPE.model_dump(), ()), cpus=1, gpus=0.0)
    run.best.mkdir()
    (run.best / "bundle.json").write_text(content)
    assert not is_bundle_of(run.best, request)
