"""The winner and its repeats as one bundle: it predicts their mean, and says what averaging brought on people whom the
averaged models had left out."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, Missing
from maskcls.serving.bundle import read_bundle
from maskcls.serving.predictor import Predictor
from maskcls.training.checkpoint_files import files_of, weights_alone
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import scores
from tests.commands import call_module
from tests.tune.answered_run import add_trained_trial, note_data
from tests.tune.selection.small_run import fitted, small_run
from tune.fitting.request import FitRequest
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import records
from tune.selection.bag import averaged, find_bag
from tune.selection.choice import write_choice
from tune.selection.finalists import Design, Finalist, RepeatBy, pick_winner, read_finalists, repeat_requests
from tune.selection.fits import repeat_fit
from tune.selection.keeping import Keeping, unneeded
from tune.selection.record import ChoiceRecord

DESIGN = Design(2, 2)


class Chosen(NamedTuple):
    run: SearchRun
    faces: FaceDataset
    winner: Finalist
    requests: list[FitRequest]
    """Of the repeats of both finalists."""


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> Chosen:
    """Two trials of an epoch, two folds of each, and the choice."""
    run, faces = small_run(tmp_path_factory.mktemp("bag"), demo_cache)
    note_data(run, faces)
    for f1, width in ((0.5, 8), (0.4, 16)):
        add_trained_trial(run, faces, f1, {"epochs": 1, "head": "mlp", "head_width": width})
    requests = repeat_requests(run, records(run), faces, DESIGN, cpus=1, gpus=0.0)
    for request in requests:
        fitted(request, functools.partial(repeat_fit, cache=faces.cache))
    finalists = read_finalists(run, records(run), faces, DESIGN)
    winner = pick_winner(finalists)
    assert winner is not None
    write_choice(run, ChoiceRecord.from_results(DESIGN, Outcome(Reason.FINISHED, 0), tuple(finalists), winner))
    return Chosen(run, faces, winner, requests)


def test_the_bundle_predicts_the_mean_of_all_its_models(chosen: Chosen, tmp_path: Path) -> None:
    out = tmp_path / "bag"
    said = call_module("tune.export", "--run", chosen.run.path, "--bag", "--out", out)
    assert said.status == 0, said.err
    assert f"A bag of 3 models: trial {chosen.winner.trial_id} and its 2 repeats." in said.out
    assert "Averaging 2 of them changed macro F1 by " in said.out
    bundle = read_bundle(out)
    assert [each.weight for each in bundle.classifiers] == [1 / 3] * 3
    files = chosen.faces.photos["file"].iloc[chosen.faces.rows("holdout")][:8].tolist()
    uncalibrated = replace(bundle, calibration=None)
    alone = [
        Predictor(replace(uncalibrated, classifiers=(replace(each, weight=1.0),))).probabilities(files)
        for each in bundle.classifiers
    ]
    assert not np.allclose(alone[0], alone[1]), "three models, not one three times"
    np.testing.assert_allclose(Predictor(uncalibrated).probabilities(files), np.mean(alone, axis=0), atol=1e-12)
    # A repeat's model predicts here what the repeat wrote when it was trained.
    repeat = chosen.winner.repeats[0]
    photos = chosen.faces.photos.set_index("key").loc[list(repeat.keys)]
    of_repeat = Predictor(replace(uncalibrated, classifiers=(replace(bundle.classifiers[1], weight=1.0),)))
    found = of_repeat.probabilities(photos["file"].tolist())
    np.testing.assert_allclose(found, np.exp(repeat.log_probabilities), atol=1e-5)


@pytest.mark.parametrize("by", RepeatBy)
def test_averaging_is_scored_on_models_that_left_a_person_out(chosen: Chosen, by: RepeatBy) -> None:
    faces, rows = chosen.faces, scored_rows(chosen.faces, "validation")
    keys, truth = faces.photos["key"].iloc[rows].tolist(), faces.photos["label"].to_numpy(np.int64)[rows]
    right, wrong = np.eye(18)[truth], np.eye(18)[(truth + 1) % 18]
    own = 0.9 * right + 0.1 * wrong  # sure, and right
    halves = [np.arange(0, len(keys), 2), np.arange(1, len(keys), 2)]
    of_repeats = halves if by == RepeatBy.FOLDS else [np.arange(len(keys))] * 2
    unsure = np.log(0.45 * right + 0.55 * wrong + 1e-9)  # wrong about every photo, but not sure of it
    repeats = tuple(
        replace(
            repeat,
            keys=("somebody else's", *(keys[row] for row in mine)),
            truth=truth[[0, *mine]],
            log_probabilities=unsure[[0, *mine]].astype(np.float32),
            classes=unsure[[0, *mine]].argmax(1),
        )
        for repeat, mine in zip(chosen.winner.repeats, of_repeats, strict=True)
    )
    found = averaged(replace(chosen.winner, repeats=repeats), faces, own)
    assert found.models == (2 if by == RepeatBy.FOLDS else 3)
    alone = scores(truth, (truth + 1) % 18).f1
    assert found.difference.mean == pytest.approx(1 - alone)
    assert found.difference.people == len(faces.split.validation)


def test_of_other_finalists_no_weights_stay(chosen: Chosen, tmp_path: Path) -> None:
    shutil.copytree(chosen.run.path, tmp_path / "copy")
    run = SearchRun.open(tmp_path / "copy")
    trials, keeping = records(run), Keeping(5, 2)
    folders = [(request.trial, run.finalists / request.trial_id / "state") for request in chosen.requests]
    assert all(weights_alone(folder) for _, folder in folders), "none is removed before the choice"
    others = [file for trial, folder in folders if trial != chosen.winner.trial_id for file in files_of(folder)]
    assert len(others) == 2
    assert set(others) <= set(unneeded(run, trials, keeping))
    for file in unneeded(run, trials, keeping):
        file.unlink()
    assert len(find_bag(run, chosen.faces).repeats) == 2
    add_trained_trial(run, chosen.faces, 0.9, {"epochs": 1, "head_width": 4})
    assert not [file for file in unneeded(run, records(run), keeping) if run.finalists in file.parents], (
        "among more trials another one may win"
    )


def test_without_the_weights_or_a_winner_it_is_refused(chosen: Chosen, tmp_path: Path, demo_cache: Path) -> None:
    shutil.copytree(chosen.run.path, tmp_path / "copy")
    run = SearchRun.open(tmp_path / "copy")
    for file in run.finalists.glob("*/state/best-*"):
        file.unlink()
    with pytest.raises(Missing, match=r"has no weights of trial .*, repeat 1 of 2"):
        find_bag(run, chosen.faces)
    with pytest.raises(CallError, match=r"no winner that was chosen by repeats. Search with --finalists"):
        find_bag(small_run(tmp_path, demo_cache, "none")[0], chosen.faces)
    for words, message in (
        ((), "--bag writes a bundle. Name its folder with --out"),
        (("--onnx",), "--bag writes a bundle. Name its folder with --out"),
        (("--out", "b", "--trial", "0"), "Leave out --trial"),
        (("--out", "b", "--timm"), "Leave out --timm"),
    ):
        said = call_module("tune.export", "--run", run.path, "--bag", *words)
        assert (said.status, message in said.err) == (2, True), said.err
