"""The winner once more, on train and validation people together: whom it trains on, how long, and that it claims no
score."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.errors import CallError, DataError
from maskcls.machine import set_threads
from maskcls.models.model import log_probabilities
from maskcls.serving.bundle import read_bundle
from maskcls.serving.predictor import probabilities_of
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.tune.selection.small_run import BASE, fitted, small_run, stopped
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.stopping import Reason
from tune.selection.finalists import Finalist, RepeatResult
from tune.selection.fits import fit_on_all
from tune.selection.retrain import MADE, is_retrained, last_epoch, retrain_on_all, retrain_request, summary
from tune.states import TrialState

RECIPE = BASE.override({"epochs": 4, "frozen_stages": 2, "lr_head": 1e-2})


def won(*best_epochs: int, of_trial: int = 3) -> Finalist:
    nothing = ((), np.zeros(0, np.int64), np.zeros((0, 18), np.float32), np.zeros(0, np.int64))
    repeats = tuple(RepeatResult(number, number + 1, epoch, 0.5, *nothing) for number, epoch in enumerate(best_epochs))
    return Finalist("0007", 0.6, of_trial, RECIPE.model_dump(), repeats)


@pytest.fixture
def made(tmp_path: Path, demo_cache: Path) -> tuple[SearchRun, FaceDataset]:
    return small_run(tmp_path, demo_cache)


def test_it_stops_after_the_median_of_the_repeats_best_epochs() -> None:
    assert last_epoch(won(1, 4, 2)) == 2
    assert last_epoch(won(1, 2, 3, 4)) == 2
    assert last_epoch(won(of_trial=3)) == 3


@pytest.mark.usefixtures("ray_cluster")
def test_the_bundle_is_trained_on_everybody_but_the_holdout(
    made: tuple[SearchRun, FaceDataset], demo_cache: Path
) -> None:
    run, faces = made
    winner = won(2, 2, 3)
    request = retrain_request(run, winner, faces, cpus=1, gpus=0.0)
    assert summary(run, request) == ["Trial 0007 on all people: not done"]
    how = {"cpus": 1, "gpus": 0.0, "cache": CacheOptions(demo_cache, 1.0), "plain": True}
    outcome = retrain_on_all(run, winner, faces, **how)  # type: ignore[arg-type]
    assert (outcome.reason, outcome.remaining) == (Reason.FINISHED, 0)

    bundle = read_bundle(run.best_on_all)
    split = faces.split
    assert all(bundle.has_seen(person) for person in (*split.train, *split.validation))
    assert not any(bundle.has_seen(person) for person in split.holdout)
    assert (bundle.data_digest, bundle.split_digest) == (faces.digest, split.digest)
    assert set(bundle.scores) == {"note", "run", "trial", "fit", "epoch"}
    assert "no score belongs to this model" in bundle.scores["note"]
    assert bundle.scores["epoch"] == 2
    assert bundle.classifiers[0].recipe == RECIPE
    people = len(split.train) + len(split.validation)
    assert summary(run, request) == [
        f"Trial 0007 on all {people} people, 2 of 4 epochs: {run.best_on_all}",
        "No score belongs to that model: nobody was left to score it on.",
    ]
    result = FitResult.read(request.folder)
    assert result is not None
    assert (result.best_validation_f1, result.best_epoch, result.epochs) == (None, 2, 2)

    set_threads(1)  # as the fit had
    rows = faces.rows("holdout")
    everybody = FaceDataset(
        faces.photos, Split((*split.train, *split.validation), (), split.holdout), CacheOptions(demo_cache)
    )
    assert np.array_equal(probabilities_of(run.best_on_all, faces, rows, "cpu"), _by_hand(everybody, rows, epochs=2))


def _by_hand(faces: FaceDataset, rows: np.ndarray, epochs: int) -> np.ndarray:
    """Two of the four epochs of the recipe's own schedule, on everybody."""
    fit = Fit(RECIPE, FitData.of(faces, RECIPE))
    for _ in range(epochs):
        fit._next_epoch()
    return np.exp(log_probabilities(fit.models, RECIPE.split, fit.data.pixels, rows))


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_one_gives_the_same_bundle_and_a_lost_one_is_made_again(tmp_path: Path, demo_cache: Path) -> None:
    weights = []
    work = functools.partial(fit_on_all, cache=CacheOptions(demo_cache, 1.0))
    for name in ("unbroken", "killed"):
        run, faces = small_run(tmp_path, demo_cache, name)
        request = retrain_request(run, won(2), faces, cpus=1, gpus=0.0)
        if name == "killed":
            stopped(request, work, after=1)
            (request.folder / ".bundle.1.tmp").mkdir()  # as by a kill in the middle of the bundle
            assert not is_retrained(request)
        assert fitted(request, work).state == TrialState.COMPLETE
        assert is_retrained(request)
        weights.append(read_bundle(request.folder / MADE).manifest["classifiers"][0]["models"])
    assert weights[0] == weights[1]

    other = retrain_request(run, won(3), faces, cpus=1, gpus=0.0)
    assert other.trial_id != request.trial_id
    assert not is_retrained(other)
    retrain_on_all(run, won(2), faces, cpus=1, gpus=0.0, cache=CacheOptions(demo_cache, 1.0))
    assert not (request.folder / MADE).exists(), "the driver has put it in its place"
    manifest = run.best_on_all / "bundle.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "scores": {"fit": other.trial_id}}))
    assert not is_retrained(request), "best-on-all is another fit's now"
    manifest.unlink()
    assert not is_retrained(request)


def test_what_cannot_be_retrained_is_refused(made: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = made
    alone = FaceDataset(faces.photos, Split(faces.split.train, (), faces.split.holdout), faces.cache)
    with pytest.raises(
        DataError,
        match="--retrain-on-all adds the validation people of small to its training people, but there are none",
    ):
        retrain_request(run, won(2), alone, cpus=1, gpus=0.0)
    run.best_on_all.mkdir()
    (run.best_on_all / "notes.txt").touch()
    with pytest.raises(CallError, match="best-on-all exists and is no bundle"):
        retrain_on_all(run, won(2), faces, cpus=1, gpus=0.0, cache=CacheOptions(None, 1.0))
