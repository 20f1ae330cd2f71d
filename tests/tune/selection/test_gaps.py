"""Photos that lack labels in what follows a search: they train, and no score, interval or audit counts them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.labels import UNKNOWN
from maskcls.serving.export import export
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData, scored_rows
from maskcls.training.metrics import scores
from tests.tune.gapped_faces import with_gaps
from tests.tune.selection.small_run import BASE, add_trial, fitted, small_run
from tune.audit.predictions import averaged
from tune.report.predicted import Predicted
from tune.runs.folder import SearchRun
from tune.selection.bundle_predictions import winner_predictions
from tune.selection.finalists import Design, RepeatBy, people_of, read_finalists, repeat_requests
from tune.selection.fits import repeat_fit
from tune.selection.holdout import evaluate_on_holdout
from tune.states import TrialState

Run = tuple[SearchRun, FaceDataset]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> Run:
    run, whole = small_run(tmp_path_factory.mktemp("gaps"), demo_cache)
    faces = with_gaps(whole)
    faces.save(run.data)
    return run, FaceDataset.load(run.data, CacheOptions(demo_cache))


def test_a_repeat_predicts_the_photos_with_all_labels_and_its_interval_is_of_them(made: Run) -> None:
    run, faces = made
    trial = add_trial(run, [0.5], {"task_split": "shared_heads", "epochs": 1, "age_regression": 0.5})
    design = Design(1, 1, RepeatBy.SEEDS)
    (request,) = repeat_requests(run, [trial], faces, design, cpus=1, gpus=0.0)
    outcome = fitted(request, functools.partial(repeat_fit, cache=faces.cache))
    assert outcome.state == TrialState.COMPLETE, outcome.message
    (finalist,) = read_finalists(run, [trial], faces, design)
    (repeat,) = finalist.repeats
    rows = scored_rows(faces, "validation")
    assert 0 < len(rows) < len(faces.rows("validation"))
    assert list(repeat.keys) == faces.photos["key"].iloc[rows].tolist()
    assert repeat.f1 == scores(repeat.truth, repeat.log_probabilities).f1
    _, strata = people_of(repeat.keys, faces)
    known = faces.photos.iloc[rows]
    assert strata.tolist() == (3 * known["gender"] + known["age_group"]).tolist(), "years need not be known"
    audited = averaged(faces, [(repeat.keys, repeat.log_probabilities)], "")
    assert (audited.photos["label"] != UNKNOWN).all()


def test_the_holdout_is_scored_on_the_photos_with_all_labels(made: Run) -> None:
    run, faces = made
    recipe = BASE.override({"epochs": 1, "task_split": "three"})
    fit = Fit(recipe, FitData.of(faces, recipe))
    list(fit.epochs())
    export(run.best, fit.recipe, fit.best_states(), scores={}, faces=faces)
    found = evaluate_on_holdout(run, faces, run.best, "trial 0000")
    rows = scored_rows(faces, "holdout")
    truth = faces.photos["label"].to_numpy()[rows]
    assert 0 < found.photos == len(rows) < len(faces.rows("holdout"))
    assert found.f1 == pytest.approx(scores(truth, fit.log_probs(rows)).f1, abs=1e-12)
    stored = winner_predictions(run, faces, "holdout", predicts=False)
    assert stored is not None
    keys, stored_truth, log_probabilities = stored
    assert stored_truth.tolist() == truth.tolist()
    photos = faces.photos.set_index("key", drop=False).loc[list(keys)]
    shown = Predicted("holdout", "", photos, stored_truth, log_probabilities.astype(np.float64))
    assert shown.stratum.tolist() == (truth % 6).tolist()
    validation = winner_predictions(run, faces, "validation", predicts=True)
    assert validation is not None
    assert (validation[1] != UNKNOWN).all()
