"""The winner, its repeats and other trials as one bundle: it predicts their mean, and says what averaging brought on
people whom the averaged models had left out."""

from __future__ import annotations

import functools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, Missing
from maskcls.serving.bundle import read_bundle, read_manifest
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.predictor import Predictor
from maskcls.training.checkpoint import best_predictions, load_best, save
from maskcls.training.checkpoint_files import files_of, weights_alone
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import scores
from tests.benchmarks.bagging import WAYS, soup, table, ways
from tests.commands import call, call_module
from tests.tune.answered_run import add_trained_trial, note_data
from tests.tune.selection.small_run import add_trial, fitted, small_run
from tune.fitting.request import FitRequest
from tune.report.page import write_report
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import records
from tune.search import ending
from tune.search.ending import SearchOutcome
from tune.search.options import SearchOptions
from tune.selection.averaging import Other, averaged
from tune.selection.bag import find_bag, hand_over
from tune.selection.bundle_predictions import keep_predictions, winner_predictions
from tune.selection.choice import Choice, confirm, summary, write_choice
from tune.selection.export import export_winner
from tune.selection.finalists import Design, Finalist, RepeatBy, pick_winner, read_finalists, repeat_requests
from tune.selection.finish import finish_request
from tune.selection.fits import repeat_fit
from tune.selection.keeping import Keeping, unneeded
from tune.selection.record import ChoiceRecord, read_choice
from tune.states import TrialState
from tune.upkeep.status import main as status_main

DESIGN = Design(2, 2)
OTHER = "0001"
"""The trial that is not the winner."""


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
    for f1, rate in ((0.5, 1e-3), (0.4, 2e-3)):
        add_trained_trial(run, faces, f1, {"epochs": 1, "head": "linear", "lr_head": rate})
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
    assert f"A bag of 4 models: trial {chosen.winner.trial_id}, its 2 repeats and trial {OTHER}." in said.out
    assert "Averaging 3 or more of them changed macro F1 by " in said.out
    bundle = read_bundle(out)
    assert [each.weight for each in bundle.classifiers] == [1 / 4] * 4
    *_, of_other = bundle.scores["classifiers"]
    kept = best_predictions(chosen.run.trial(OTHER))
    assert kept is not None
    result, log_probs = kept
    assert (of_other["trial"], of_other["epoch"], of_other["validation_f1"]) == (OTHER, 1, result.validation_f1)
    files = chosen.faces.photos["file"].iloc[chosen.faces.rows("holdout")][:8].tolist()
    uncalibrated = replace(bundle, calibration=None)
    alone = [
        Predictor(replace(uncalibrated, classifiers=(replace(each, weight=1.0),))).probabilities(files)
        for each in bundle.classifiers
    ]
    assert not np.allclose(alone[0], alone[1]), "four models, not one four times"
    np.testing.assert_allclose(Predictor(uncalibrated).probabilities(files), np.mean(alone, axis=0), atol=1e-12)
    # A repeat's model predicts here what the repeat wrote when it was trained.
    repeat = chosen.winner.repeats[0]
    photos = chosen.faces.photos.set_index("key").loc[list(repeat.keys)]
    of_repeat = Predictor(replace(uncalibrated, classifiers=(replace(bundle.classifiers[1], weight=1.0),)))
    found = of_repeat.probabilities(photos["file"].tolist())
    np.testing.assert_allclose(found, np.exp(repeat.log_probabilities), atol=1e-5)
    # The other trial's is that of its best epoch, which kept what it predicted for the validation people.
    photos = chosen.faces.photos.iloc[scored_rows(chosen.faces, "validation")]
    of_trial = Predictor(replace(uncalibrated, classifiers=(replace(bundle.classifiers[3], weight=1.0),)))
    np.testing.assert_allclose(of_trial.probabilities(photos["file"].tolist()), np.exp(log_probs), atol=1e-5)


def test_the_benchmark_scores_the_winner_with_and_without_its_repeats(chosen: Chosen, tmp_path: Path) -> None:
    photos = chosen.faces.photos.iloc[chosen.faces.rows("holdout")]
    found = ways(chosen.run, photos["file"].tolist(), photos["label"].to_numpy(np.int64), tmp_path)
    assert tuple(found) == WAYS
    bag = read_bundle(tmp_path / f"bag-{chosen.run.name}")
    of_all = scores(
        photos["label"].to_numpy(np.int64), Predictor(bag).probabilities(photos["file"].tolist()).argmax(1)
    ).f1
    assert found["bag"][0] == pytest.approx(of_all)
    for name, tensor in soup(bag.classifiers).models[0].state_dict().items():
        if tensor.is_floating_point():
            states = [each.models[0].state_dict()[name] for each in bag.classifiers]
            torch.testing.assert_close(tensor, sum(states) / len(states))
    assert table([found, found]).splitlines()[2].startswith("| winner alone | 2 | ")


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


def test_without_a_repeat_that_left_them_out_the_winner_is_what_the_mean_is_compared_with(chosen: Chosen) -> None:
    """As where few people are, and only some of the folds: another trial may help all the same."""
    faces, rows = chosen.faces, scored_rows(chosen.faces, "validation")
    truth = faces.photos["label"].to_numpy(np.int64)[rows]
    right, wrong = np.eye(18)[truth], np.eye(18)[(truth + 1) % 18]
    own, helps = 0.4 * right + 0.6 * wrong, Other("helps", 1, 0.9, 0.9 * right + 0.1 * wrong, Path("helps"))
    repeats = tuple(replace(repeat, keys=("somebody else's",) * len(repeat.keys)) for repeat in chosen.winner.repeats)
    found = averaged(replace(chosen.winner, repeats=repeats[:1]), faces, own, [helps])
    assert (found.others, found.pays) == ((helps,), True)
    assert found.difference.people == len(faces.split.validation)
    alone = averaged(replace(chosen.winner, repeats=repeats), faces, own)
    assert not alone.pays, "nothing is known of repeats by themselves"


def copied(chosen: Chosen, folder: Path) -> tuple[SearchRun, Choice]:
    """The run again, with the winner's own model in best/, and the choice."""
    shutil.copytree(chosen.run.path, folder / chosen.run.name)
    run = SearchRun.open(folder / chosen.run.name)
    export_winner(run, chosen.winner)
    done = Outcome(Reason.FINISHED, 0)
    return run, Choice(done, done, (chosen.winner,), chosen.winner)


def let_best_answer(run: SearchRun, faces: FaceDataset, shift: int) -> None:
    """What best/ is said to have predicted for the validation people: each photo's class, or the one after it."""
    truth = faces.photos["label"].to_numpy(np.int64)[scored_rows(faces, "validation")]
    digest = bundle_digest(read_manifest(run.best))
    keep_predictions(run, faces, "validation", digest, 0.9 * np.eye(18)[(truth + shift) % 18] + 0.1 / 18)


def let_trial_answer(run: SearchRun, trial: str, probabilities: np.ndarray) -> None:
    """What a trial's best epoch is said to have predicted for the validation photos."""
    recipe, result, states = load_best(run.trial(trial))
    files = files_of(run.trial(trial))
    save(
        run.trial(trial),
        recipe=recipe,
        data_digest="",
        history=[result],
        best_epoch=1,
        best=states,
        best_log_probs=np.log(probabilities),
        models=states,
        averages=[],
        optimizers=[],
    )
    assert files_of(run.trial(trial)) == files


def test_a_bag_that_pays_is_what_best_holds_and_what_the_holdout_scores(
    chosen: Chosen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, choice = copied(chosen, tmp_path)
    faces = chosen.faces
    let_best_answer(run, faces, 0)
    found = hand_over(run, faces, chosen.winner, DESIGN)
    assert found is not None
    assert found.pays, "the winner knows all, and its repeats have learnt next to nothing"
    bundle = read_bundle(run.best)
    assert len(bundle.classifiers) == 3
    scored = confirm(run, faces, choice, run.best)
    assert scored.bundle == bundle_digest(bundle.manifest)
    made = read_choice(run.record())
    assert made is not None
    assert made.bag is not None
    assert (made.is_bag, made.bag.models, made.bag.averaged) == (True, 3, 2)
    assert made.model_f1 == bundle.scores["validation"]["f1"] == found.scores.f1
    assert made.optimism == found.scores.f1 - scored.f1
    said = summary(run)
    assert f"best/ is a bag of 3 models: trial {chosen.winner.trial_id} and its 2 repeats." in said[1]
    assert said[2] == made.bag.gain_text
    assert any("validation by the models that left a person out, minus holdout" in line for line in said)
    # The report has what those predicted who had left a person out; the whole bag is never asked about them.
    kept = winner_predictions(run, faces, "validation", predicts=False)
    assert kept is not None
    np.testing.assert_allclose(np.exp(kept[2]), found.probabilities, atol=1e-6)
    write_report(run)
    page = run.report.read_text()
    assert "a bag: each person by 2 of its 3 models, which left them out" in page
    assert f"The bag (trial {chosen.winner.trial_id} and its 2 repeats), the model in best/" in page
    shutil.rmtree(run.path / "predictions")
    assert winner_predictions(run, faces, "validation", predicts=True) is None
    assert call(status_main, run.path).out.splitlines()[-1] == (
        f"Handed over: trial {chosen.winner.trial_id}, a bag of 3 models; holdout {scored.f1:.4f}."
    )


def test_a_bag_that_does_not_pay_leaves_the_winner_alone_in_best(chosen: Chosen, tmp_path: Path) -> None:
    run, _ = copied(chosen, tmp_path)
    before = (run.best / "bundle.json").read_bytes()
    let_best_answer(run, chosen.faces, 1)
    found = hand_over(run, chosen.faces, chosen.winner, DESIGN)
    assert found is not None
    assert not found.pays, "the winner knows nothing"
    assert (run.best / "bundle.json").read_bytes() == before
    made = read_choice(run.record())
    assert made is not None
    assert not made.is_bag
    assert summary(run)[1] == (
        f"best/ holds the own model of trial {chosen.winner.trial_id} alone: averaging 3 models does not pay."
    )


@pytest.mark.slow
def test_where_no_repeat_is_complete_the_best_trial_is_averaged_with_others(
    chosen: Chosen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = copied(chosen, tmp_path)
    shutil.rmtree(run.finalists)
    up = Outcome(Reason.TIME_UP, 2)
    finalists = tuple(read_finalists(run, records(run), chosen.faces, DESIGN))
    write_choice(run, ChoiceRecord.from_results(DESIGN, up, finalists, None))
    outcome = SearchOutcome(up, Choice(up, up, finalists, None))
    options = SearchOptions(finalists=2, repeats=2, cache=chosen.faces.cache.path)
    ending.hand_over(run, options.model_copy(update={"single": True}), outcome)
    let_best_answer(run, chosen.faces, 1)
    truth = chosen.faces.photos["label"].to_numpy(np.int64)[chosen.faces.rows("validation")]
    let_trial_answer(run, OTHER, 0.99 * np.eye(18)[truth] + 0.01 / 18)
    capsys.readouterr()
    ending.hand_over(run, options, outcome)
    assert [one["trial"] for one in read_bundle(run.best).scores["classifiers"]] == [chosen.winner.trial_id, OTHER]
    said = " ".join(capsys.readouterr().out.split())
    assert "No repeat of a finalist is complete, so the best trial is chosen by validation alone." in said
    assert f"best/ is a bag of 2 models: trial {chosen.winner.trial_id} and trial {OTHER}. A photo is answered" in said
    assert f"Handed over: trial {chosen.winner.trial_id}, a bag of 2 models" in call(status_main, run.path).out
    assert f"{chosen.winner.trial_id} and trial {OTHER}. A photo is answered by all 2" in run.report.read_text()
    for option, models in (("--single", 1), ("--bag", 2)):
        said_of = call_module("tune.export", "--run", run.path, option, "--out", tmp_path / option)
        assert said_of.status == 0, said_of.err
        assert len(read_bundle(tmp_path / option).classifiers) == models


def test_trials_count_that_ended_after_the_search_or_were_trained_to_their_ends(
    chosen: Chosen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = copied(chosen, tmp_path)
    late = add_trial(run, [], {"epochs": 1, "lr_head": 3e-3}, state=TrialState.UNFINISHED)
    shutil.copytree(run.trial(OTHER), run.trial(late.trial_id))
    add_trial(run, [], {"epochs": 1, "lr_head": 4e-3}, state=TrialState.UNFINISHED)
    others = find_bag(run, chosen.faces).others
    assert [one.trial_id for one in others] == [OTHER, late.trial_id], "and not the one without an epoch"
    to_end = finish_request(run, records(run)[int(OTHER)], cpus=1, gpus=0.0).checkpoint_folder
    shutil.copytree(run.trial(OTHER), to_end)
    assert find_bag(run, chosen.faces).others[0].folder == to_end
    (to_end / "best-1.safetensors").write_bytes(b"")
    assert find_bag(run, chosen.faces).others[0].folder == run.trial(OTHER), "its own weights are whole"
    let_trial_answer(run, OTHER, np.full((len(chosen.faces.rows("validation")), 18), 0.5))
    assert [one.trial_id for one in find_bag(run, chosen.faces).others] == [late.trial_id]
    assert f"Trial {OTHER} takes no part in the bag." in caplog.text


@pytest.mark.slow
def test_single_hands_over_one_model_and_export_gets_it_from_a_bag(
    chosen: Chosen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, choice = copied(chosen, tmp_path)
    outcome = SearchOutcome(Outcome(Reason.FINISHED, 0), choice)
    options = SearchOptions(single=True, finalists=2, repeats=2, cache=chosen.faces.cache.path)
    let_best_answer(run, chosen.faces, 0)
    ending.hand_over(run, options, outcome)
    alone = read_bundle(run.best)
    assert len(alone.classifiers) == 1
    assert ending.handed_over(run, options)
    ending.hand_over(run, options.model_copy(update={"single": False}), outcome)
    assert len(read_bundle(run.best).classifiers) == 3
    assert not ending.handed_over(run, options), "a resume with --single has something to do"
    said = call_module("tune.export", "--run", run.path, "--single", "--out", tmp_path / "one")
    assert said.status == 0, said.err
    own = read_bundle(tmp_path / "one")
    assert bundle_digest(own.manifest) == bundle_digest(alone.manifest)
    said = call_module("tune.export", "--run", run.path, "--timm", "--out", tmp_path / "timm")
    assert said.status == 0, said.err
    assert f"timm's format is of one model: the winner's own, trial {chosen.winner.trial_id}." in said.out
    assert "of the bag in best/, which averages this model with others" in (tmp_path / "timm/README.md").read_text()
    said = call_module("tune.export", "--run", run.path, "--single", "--bag", "--out", tmp_path / "x")
    assert (said.status, "Leave out --single" in said.err) == (2, True), said.err


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
    bag = find_bag(run, chosen.faces)
    assert len(bag.repeats) == 2
    (lost,) = files_of(bag.repeats[0].checkpoint_folder)
    lost.unlink()
    of_one = find_bag(run, chosen.faces)
    assert of_one.repeats == bag.repeats[1:], "what is there counts"
    assert [one.repeat for one in of_one.winner.repeats] == [one.repeat for one in bag.winner.repeats[1:]]
    add_trained_trial(run, chosen.faces, 0.9, {"epochs": 1, "head": "linear", "lr_head": 3e-3})
    assert not [file for file in unneeded(run, records(run), keeping) if run.finalists in file.parents], (
        "among more trials another one may win"
    )


def test_without_the_weights_or_a_winner_it_is_refused(chosen: Chosen, tmp_path: Path, demo_cache: Path) -> None:
    shutil.copytree(chosen.run.path, tmp_path / "copy")
    run = SearchRun.open(tmp_path / "copy")
    for file in run.finalists.glob("*/state/best-*"):
        file.unlink()
    with pytest.raises(Missing, match=r"No weights of the repeats of trial .* are in .*finalists: they are kept from"):
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
