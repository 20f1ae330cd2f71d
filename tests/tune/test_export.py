"""Any trial of a run as a bundle: the same weights, to the bit, and clear words where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState as OptunaState

from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.errors import CallError, RunError
from maskcls.labels import N_CLASSES, decode
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_bundle
from maskcls.serving.export import note_scores
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.commands import Said, call_module
from tune.export import choose
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.selection.export import complete_states, export_trial
from tune.states import TrialState

SMALL = {"backbone": "test_resnet", "weights": "none", "image_size": 32, "epochs": 2, "batch_size": 18, "lr_body": 1e-3}
RECIPES = {
    "0000": Recipe().override({**SMALL, "frozen_stages": 5, "head": "mlp", "head_width": 8}),
    "0001": Recipe().override({**SMALL, "frozen_stages": 3, "task_split": "three"}),
}
PERSONS = tuple(f"{number:06d}" for number in range(6))


def small_faces(folder: Path) -> FaceDataset:
    rows = [
        {"file": f"/nowhere/{p}/{c}.jpg", "key": f"{p}/{c}.jpg", "person": p, "label": c, "age": (25, 45, 62)[c % 3]}
        for p in PERSONS
        for c in range(N_CLASSES)
    ]
    photos = pd.DataFrame(rows).assign(person_id="0", race="Asian", size_bytes=1)
    photos[["mask", "gender", "age_group"]] = [decode(label) for label in photos["label"].tolist()]
    faces = FaceDataset(photos, Split(PERSONS[:4], PERSONS[4:5], PERSONS[5:]), CacheOptions(folder))
    faces.save(folder)
    return faces


def fit_of(recipe: Recipe, faces: FaceDataset) -> Fit:
    pixels = np.random.default_rng(0).integers(0, 256, (len(faces.photos), 32, 32, 3), np.uint8)
    labels = faces.photos["label"].to_numpy(np.int64)
    data = FitData(
        pixels,
        labels,
        faces.photos["age"].to_numpy(),
        faces.photos["key"].tolist(),
        faces.rows("train"),
        faces.rows("validation"),
        "digest",
    )
    return Fit(recipe, data)


def record(run: SearchRun, state: str, values: list[float], recipe: Recipe) -> None:
    study = records.open_study(run)
    trial = study.ask()
    for epoch, value in enumerate(values, start=1):
        trial.report(value, epoch)
    trial.set_user_attr(records.STATE, state)
    trial.set_user_attr(records.RECIPE, recipe.model_dump())
    trial.set_user_attr(records.MESSAGE, "The loss is nan." if state == TrialState.DIVERGED else "")
    reported = OptunaState.COMPLETE if state == TrialState.COMPLETE else OptunaState.PRUNED
    study.tell(trial, max(values) if state == TrialState.COMPLETE else None, state=reported)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchRun, dict[str, Fit]]:
    run = SearchRun.create(tmp_path_factory.mktemp("runs"), "made")
    faces = small_faces(run.data)
    fits = {}
    for trial_id, recipe in RECIPES.items():
        fit = fit_of(recipe, faces)
        values: list[float] = []
        for result in fit.epochs():
            fit.save(run.trial(trial_id))
            values.append(max([result.validation_f1, *values]))
        record(run, TrialState.COMPLETE, values, recipe)
        fits[trial_id] = fit
    record(run, TrialState.DIVERGED, [], RECIPES["0000"])
    return run, fits


@pytest.mark.parametrize("trial_id", list(RECIPES))
def test_a_trials_best_epoch_to_the_bit(made: tuple[SearchRun, dict[str, Fit]], trial_id: str, tmp_path: Path) -> None:
    run, fits = made
    export_trial(run, trial_id, tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    (classifier,) = bundle.classifiers
    assert classifier.recipe == RECIPES[trial_id]
    assert len(classifier.models) == len(fits[trial_id].models)
    for model, state in zip(classifier.models, fits[trial_id].best_states(), strict=True):
        found = model.state_dict()
        assert found.keys() == state.keys()
        assert all(found[name].equal(tensor) for name, tensor in state.items())
    assert bundle.scores["epoch"] == fits[trial_id].best_epoch
    assert bundle.scores["trial"] == trial_id
    assert bundle.scores["validation"]["f1"] == fits[trial_id].best.validation_f1
    assert [bundle.has_seen(person) for person in PERSONS] == [True] * 5 + [False]  # four to train on, one to choose by


def test_best_is_not_replaced_by_what_is_worse_without_keeping_it(
    made: tuple[SearchRun, dict[str, Fit]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SearchRun(Path(shutil.copytree(made[0].path, tmp_path / "made")))

    def put(trial_id: str, f1: float | None = None) -> None:
        export_trial(run, trial_id, run.best, overwrite=True, calibrates=False)
        if f1 is not None:  # both fits score the same
            note_scores(run.best, {"validation": {**read_bundle(run.best).scores["validation"], "f1": f1}})

    for trial_id in ("0000", "0001"):
        put(trial_id)
    assert run.best_earlier() == [], "one that is as good may replace it"
    put("0001", 0.5)
    best = (run.best / "bundle.json").read_bytes()
    put("0000")
    (kept,) = run.best_earlier()
    assert f"validation macro F1 of 0.5000, more than the 0.0058 of what replaces it; it is kept in {kept}" in (
        capsys.readouterr().err
    )
    assert (kept / "bundle.json").read_bytes() == best
    assert read_bundle(kept).scores["trial"] == "0001"
    put("0001", 0.5)
    put("0000", 0.4)
    assert run.best_earlier() == [kept], "the same one is kept once"
    put("0001")
    assert [folder.name for folder in run.best_earlier()] == ["best-earlier", "best-earlier-2"]


def test_what_was_chosen_is_kept_where_an_interrupted_extension_replaces_it(
    made: tuple[SearchRun, dict[str, Fit]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SearchRun(Path(shutil.copytree(made[0].path, tmp_path / "made")))
    export_trial(run, "0000", run.best, overwrite=True, calibrates=False)
    note_scores(run.best, {"holdout": {"f1": 0.0}})
    export_trial(run, "0001", run.best, overwrite=True, calibrates=False)
    (kept,) = run.best_earlier()
    assert read_bundle(kept).scores["trial"] == "0000"
    said = " ".join(capsys.readouterr().err.split())
    assert "was chosen by repeats and scored on the holdout, and what replaces it was not; it is kept in" in said


def test_the_frozen_stages_come_from_the_weights(made: tuple[SearchRun, dict[str, Fit]]) -> None:
    """What is kept of a frozen trial is its head alone; the rest must be there again."""
    _, fits = made
    states = complete_states(RECIPES["0000"], [fits["0000"].models[0].trainable_state()])
    assert {name.partition(".")[0] for name in fits["0000"].models[0].trainable_state()} == {"heads"}
    assert len(states[0]) == len(fits["0000"].models[0].state_dict())


def test_the_best_trial_is_the_default(made: tuple[SearchRun, dict[str, Fit]]) -> None:
    run, fits = made
    scores = {trial_id: fit.best.validation_f1 for trial_id, fit in fits.items()}
    chosen = choose(run, records.records(run), None)
    assert chosen.trial_id == max(scores, key=lambda trial_id: scores[trial_id])
    assert chosen.f1 == max(scores.values())
    assert choose(run, records.records(run), "1").trial_id == "0001"


def test_a_bundle_in_the_way_is_kept(made: tuple[SearchRun, dict[str, Fit]], tmp_path: Path) -> None:
    run, _ = made
    export_trial(run, "0000", tmp_path / "bundle")
    with pytest.raises(CallError, match="holds a bundle already"):
        export_trial(run, "0001", tmp_path / "bundle")
    assert read_bundle(tmp_path / "bundle").classifiers[0].recipe == RECIPES["0000"]
    export_trial(run, "0001", tmp_path / "bundle", overwrite=True)
    assert read_bundle(tmp_path / "bundle").classifiers[0].recipe == RECIPES["0001"]


def test_what_there_is_none_of_is_said(made: tuple[SearchRun, dict[str, Fit]], tmp_path: Path) -> None:
    run, _ = made
    trials = records.records(run)
    with pytest.raises(
        CallError, match=r"There is no trial '7' in made\. Trials with a finished epoch, best first: 000[01], 000[01]\."
    ):
        choose(run, trials, "7")
    with pytest.raises(
        CallError,
        match=r"Trial 0002 of made has no finished epoch \(diverged: The loss is nan\.\)\. Trials that have one",
    ):
        choose(run, trials, "0002")
    with pytest.raises(
        CallError, match=r"No trial of made has finished an epoch\. Go on with it: python -m tune\.search --resume "
    ):
        choose(run, [], None)
    with pytest.raises(RunError, match="holds no finished epoch"):
        export_trial(run, "0002", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def door(*options: Any) -> Said:
    return call_module("tune.export", *options)


def test_the_door(made: tuple[SearchRun, dict[str, Fit]], tmp_path: Path) -> None:
    run, fits = made
    done = door("--run", "made", "--runs", run.path.parent, "--trial", "1", "--out", tmp_path / "bundle")
    assert done.status == 0, done.err
    best = fits["0001"].best
    expected = f"Epoch {best.epoch} of trial 0001 of made, validation macro F1 {best.validation_f1:.4f}, is in "
    assert done.out.startswith(expected)
    assert f"python -m maskcls.predict --bundle {tmp_path / 'bundle'} " in done.out
    assert read_bundle(tmp_path / "bundle").classifiers[0].recipe == RECIPES["0001"]


def test_the_door_lists_the_runs_there_are(made: tuple[SearchRun, dict[str, Fit]], tmp_path: Path) -> None:
    run, _ = made
    done = door("--run", "mad", "--runs", run.path.parent, "--out", tmp_path / "bundle")
    assert done.status == 2
    assert done.err.startswith("Error: There is no run 'mad'. Expected a run's folder, or its name under ")
    assert done.err.endswith("Runs there: made.\n")
