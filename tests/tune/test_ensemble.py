"""The command: from runs with finalists to one bundle, and whether it pays. Trials and their weights are real."""

from __future__ import annotations

import functools
import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskcls import evaluate, predict
from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.errors import CallError
from maskcls.serving.bundle import read_bundle
from maskcls.serving.calibration import calibrated
from maskcls.serving.predictor import Predictor
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.metrics import scores
from tests.commands import Said, call
from tests.tune.answered_run import add_trained_trial, let_answer, note_data, one_knows, outvoting
from tests.tune.selection.small_run import fitted, small_run, two_trials, write_end
from tune import ensemble
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import holdout_evaluations
from tune.runs.record import DataRecord
from tune.runs.study import records
from tune.selection.averaging import PARTS
from tune.selection.choice import choose
from tune.selection.ensemble_bundle import decide, table, verdict
from tune.selection.ensembles import LeftOutComparison
from tune.selection.export import export_trial
from tune.selection.finalists import Design, RepeatBy, read_finalists, repeat_requests
from tune.selection.fits import repeat_fit
from tune.selection.library import build_library, find_candidates
from tune.states import TrialState
from tune.statistics.paired import Difference

DESIGN = Design(2, 2, RepeatBy.FOLDS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> Path:
    """A folder with two runs of the same people: `one` has two trials of different tasks and image sizes, `two` one."""
    runs = tmp_path_factory.mktemp("runs")
    runs_of: tuple[tuple[str, dict[float, dict[str, Any]]], ...] = (
        ("one", {0.5: {"lr_head": 1e-2}, 0.4: {"task_split": "three", "image_size": 48}}),
        ("two", {0.3: {"seed": 3, "frozen_stages": 3}}),
    )
    for name, trials in runs_of:
        run, faces = small_run(runs, demo_cache, name)
        for f1, overrides in trials.items():
            add_trained_trial(run, faces, f1, overrides)
        note_data(run, faces)
    return runs


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def opened(runs: Path, name: str, cache: Path) -> tuple[SearchRun, FaceDataset]:
    run = SearchRun.open(name, runs)
    return run, FaceDataset.load(run.data, CacheOptions(cache))


def door(runs: Path, cache: Path, *words: object) -> Said:
    return call(ensemble.main, "--runs", runs, "--cache", cache, *words)


def mean_of(members: dict[str, float], runs: Path, folder: Path, faces: FaceDataset, rows: np.ndarray) -> np.ndarray:
    """The weighted mean of trials' own bundles, without their temperatures."""
    found = []
    for name, weight in members.items():
        run, trial = name.split("/")
        export_trial(SearchRun.open(run, runs), trial, folder / name.replace("/", "-"))
        found.append(weight * Predictor(folder / name.replace("/", "-"), "cpu").of_rows(faces, rows))
    return np.sum(found, axis=0)


@pytest.fixture
def both(runs: Path, demo_cache: Path) -> Path:
    """Both runs with finalists that outvote each other's errors."""
    for name, candidates_ in (("one", (0, 1)), ("two", (2,))):
        let_answer(*opened(runs, name, demo_cache), DESIGN, candidates_, outvoting)
    return runs


def test_an_ensemble_that_pays_becomes_a_bundle_that_predicts_like_any_other(
    both: Path, demo_cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    said = door(both, demo_cache, "--run", "one", "--run", "two", "--size", 3, "--out", out)
    assert said.status == 0, said.err
    _, faces = opened(both, "one", demo_cache)
    bundle = read_bundle(out)
    members = {
        f"{reported['run']}/{reported['trial']}": reported["weight"] for reported in bundle.scores["classifiers"]
    }
    assert [classifier.weight for classifier in bundle.classifiers] == list(members.values())
    assert set(members) == {"one/0000", "one/0001", "two/0000"}
    assert list(members.values()) == pytest.approx([1 / 3] * 3)
    assert {classifier.geometry.image_size for classifier in bundle.classifiers} == {32, 48}

    rows = faces.rows("holdout")
    photos = faces.photos["file"].iloc[rows].tolist()
    found = Predictor(out, "cpu").of_rows(faces, rows)
    np.testing.assert_allclose(found, mean_of(members, both, tmp_path / "alone", faces, rows), rtol=1e-12)
    assert bundle.calibration is not None
    assert bundle.calibration.fitted_on == "what 2 repeats predicted for their own validation people"
    validated = faces.rows("validation")
    assert bundle.calibration.photos == len(faces.rows("train")) + len(validated)
    assert bundle.temperature < 1, "together the repeats are always right, by two thirds of their votes"
    assert np.array_equal(Predictor(out, "cpu").probabilities(photos), calibrated(found, bundle.temperature))
    assert [
        bundle.has_seen(person) for person in (faces.split.train[0], faces.split.validation[0], faces.split.holdout[0])
    ] == [1, 1, 0]

    truth = faces.photos["label"].to_numpy(np.int64)
    expected = scores(truth[validated], Predictor(out, "cpu").of_rows(faces, validated))
    assert bundle.scores["validation"] == expected.to_dict()
    assert bundle.scores["holdout"]["f1"] == scores(truth[rows], found).f1
    compared = bundle.scores["left_out"]
    assert (compared["ensemble"], compared["difference"]["verdict"]) == (1.0, "better")
    assert compared["difference"]["mean"] == pytest.approx(compared["ensemble"] - compared["best_alone"])
    _says_what_it_did(said, both, demo_cache, out)


def _says_what_it_did(said: Said, runs: Path, cache: Path, out: Path) -> None:
    lines = said.out.splitlines()
    assert lines[0].split() == ["finalist", "weight", "2", "repeats", "validation"]
    assert lines[1].split()[:2] == ["one/0000", "0.33"]
    text = " ".join(lines)
    assert "Scored on people by whom nothing was selected (2 folds): ensemble 1.0000, best finalist alone 0." in text
    assert "]: better." in text
    assert f"The ensemble pays: {out} holds 3 classifiers, and a photo is answered by 5 models." in text
    assert f"python -m maskcls.predict --bundle {out} --images DIR" in text
    assert all(len(line) < 80 for line in lines if str(out) not in line)
    for name in ("one", "two"):
        (look,) = holdout_evaluations(opened(runs, name, cache)[0].record())
        assert (
            f"Holdout: {look.f1:.4f} [{look.low:.4f}, {look.high:.4f}], {look.people} people. It changes nothing."
            in lines
        )
        assert look.what == "ensemble of 0.33 one/0000 + 0.33 one/0001 + 0.33 two/0000"
        assert f"{name}: The holdout has been used 1 time." in lines


@pytest.mark.slow
def test_its_bundle_goes_through_the_doors(both: Path, demo_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert door(both, demo_cache, "--run", "one", "--out", out, "--size", 2).status == 0
    _, faces = opened(both, "one", demo_cache)
    assert [one["on"] for one in read_bundle(out).scores["groups"]] == ["holdout"]
    data = Path(faces.photos["file"].iloc[0]).parents[3]
    person = Path(faces.photos["file"].iloc[0]).parent
    said = call(
        predict.main, "--bundle", out, "--images", person, "--out", tmp_path / "s.csv", "--probabilities", "--tta"
    )
    assert said.status == 0, said.err
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 8
    assert len((tmp_path / "s.probabilities.csv").read_text().splitlines()) == 8
    said = call(evaluate.main, "--bundle", out, "--data", data, "--corrections", "none")
    assert said.status == 0, said.err
    seen = len((*faces.split.train, *faces.split.validation))
    assert f"Warning: the bundle has seen {seen} of these " in said.err


def test_one_that_does_not_pay_leaves_the_best_finalist_alone(runs: Path, demo_cache: Path, tmp_path: Path) -> None:
    let_answer(*opened(runs, "one", demo_cache), DESIGN, (0, 1), one_knows)
    out = tmp_path / "bundle"
    said = door(runs, demo_cache, "--run", "one", "--out", out)
    assert said.status == 0, said.err
    text = " ".join(said.out.splitlines())
    assert "best finalist alone 1.0000, difference +0.0000 [+0.0000, +0.0000]: can't tell." in text
    assert f"The ensemble does not pay: {out} holds the best finalist alone, one/0001." in text
    (classifier,) = read_bundle(out).classifiers
    export_trial(SearchRun.open("one", runs), "0001", tmp_path / "alone")
    (alone,) = read_bundle(tmp_path / "alone").classifiers
    assert (classifier.weight, classifier.recipe) == (1.0, alone.recipe)
    for model, other in zip(classifier.models, alone.models, strict=True):
        tensors = other.state_dict()
        assert all(tensor.equal(tensors[name]) for name, tensor in model.state_dict().items())
    (look,) = holdout_evaluations(SearchRun.open("one", runs).record())
    assert look.what == "one/0001"


def test_what_may_be_chance_is_called_so(both: Path, demo_cache: Path) -> None:
    run, faces = opened(both, "one", demo_cache)
    decision = decide([run], faces, DESIGN, 2)
    unsure = replace(decision, compared=LeftOutComparison(0.51, 0.5, Difference(2, 0.01, -0.02, 0.04)))
    said = " ".join(verdict(unsure, DESIGN, Path("b")))
    assert "ensemble 0.5100, best finalist alone 0.5000, difference +0.0100 [-0.0200, +0.0400]: can't tell. " in said
    assert said.endswith(
        "The ensemble scored higher, which may be chance: b holds 2 classifiers, and a photo is answered by 4 models."
    )
    once = replace(decision, compared=LeftOutComparison(0.51, 0.5, Difference(1, 0.01, math.nan, math.nan)))
    assert "difference +0.0100, one repeat, so no interval: can't tell." in " ".join(verdict(once, DESIGN, Path("b")))
    alone = replace(decision, exported=(0.0, 1.0))
    assert " ".join(verdict(alone, DESIGN, Path("b"))).endswith(
        "one finalist alone is selected, so b holds no ensemble, but one/0001."
    )


@pytest.mark.soak
def test_from_real_repeats_to_the_bundle(tmp_path: Path, demo_cache: Path) -> None:
    """Nothing is made up here: what the repeats answer decides, and the bundle is what they decide."""
    run, faces = small_run(tmp_path / "runs", demo_cache, "real")
    for f1, overrides in ((0.5, {"lr_head": 1e-2}), (0.4, {"task_split": "three"})):
        add_trained_trial(run, faces, f1, overrides)
    note_data(run, faces)
    trials = records(run)
    work = functools.partial(repeat_fit, cache=CacheOptions(demo_cache, 1.0))
    for request in repeat_requests(run, trials, faces, DESIGN, cpus=1, gpus=0.0):
        assert fitted(request, work).state == TrialState.COMPLETE
    choose(run, trials, faces, DESIGN, parallel=1, cpus=1, gpus=0.0, cache=CacheOptions(demo_cache, 1.0))
    out = tmp_path / "bundle"
    said = door(tmp_path / "runs", demo_cache, "--run", "real", "--out", out)
    assert said.status == 0, said.err
    finalists = read_finalists(run, trials, faces, DESIGN)
    bundle = read_bundle(out)
    gain = bundle.scores["left_out"]["difference"]["mean"]
    if gain > 0:
        assert sum(classifier.weight for classifier in bundle.classifiers) == pytest.approx(1)
    else:
        best = max(finalists, key=lambda finalist: finalist.mean)
        (reported,) = bundle.scores["classifiers"]
        assert (reported["trial"], reported["mean_of_repeats"]) == (best.trial_id, best.mean)
        assert f"holds the best finalist alone, real/{best.trial_id}." in " ".join(said.out.splitlines())
    for finalist in finalists:
        assert f"{finalist.mean:.4f}" in said.out


def test_the_holdout_decides_nothing_and_the_same_bundle_is_one_look(
    both: Path, demo_cache: Path, tmp_path: Path
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again):
        assert door(both, demo_cache, "--run", "one", "--out", out).status == 0
    assert len(holdout_evaluations(SearchRun.open("one", both).record())) == 1
    reported = [read_bundle(out).scores for out in (first, again)]
    assert reported[0] == reported[1]
    run, faces = opened(both, "one", demo_cache)
    without = FaceDataset(faces.photos, Split(faces.split.train, faces.split.validation), faces.cache)
    decisions = [decide([run], people, DESIGN, 10) for people in (faces, without)]
    assert decisions[0].exported == decisions[1].exported


def test_seeds_answer_the_same_people_whose_parts_are_left_out(runs: Path, demo_cache: Path, tmp_path: Path) -> None:
    design = Design(2, 3, RepeatBy.SEEDS)
    run, faces = opened(runs, "one", demo_cache)
    let_answer(run, faces, design, (0, 1), outvoting)
    library = build_library(find_candidates([run], faces), faces, design)
    assert len(library.truth) == 3 * len(faces.rows("validation"))
    people = sorted(set(library.person))
    assert people == sorted(faces.split.validation)
    assert all(len(set(library.part[library.person == person])) == 1 for person in people)
    assert len(set(library.part)) == min(PARTS, len(people))
    said = door(runs, demo_cache, "--run", "one", "--out", tmp_path / "bundle")
    assert said.status == 0, said.err
    assert "(3 seeds, the validation people in parts)" in " ".join(said.out.splitlines())


def validated_by(runs: Path, cache: Path, n: int, *, sharing: bool) -> tuple[SearchRun, FaceDataset]:
    """A run with repeats by seeds, whose validation has n people; the first two have a photo in common if `sharing`."""
    run, faces = opened(runs, "one", cache)
    people, photos = faces.split.validation[:n], faces.photos.copy()
    if sharing:
        one, other = (photos.index[photos["person"] == person][0] for person in people[:2])
        photos.loc[other, ["file", "size_bytes"]] = photos.loc[one, ["file", "size_bytes"]]
    faces = replace(faces, photos=photos, split=replace(faces.split, validation=people))
    faces.save(run.data)
    note_data(run, faces)
    let_answer(run, faces, Design(2, 2, RepeatBy.SEEDS), (0, 1), outvoting)
    return run, faces


def test_people_who_share_a_photo_are_in_one_part(runs: Path, demo_cache: Path, tmp_path: Path) -> None:
    run, faces = validated_by(runs, demo_cache, 3, sharing=True)
    library = build_library(find_candidates([run], faces), faces, Design(2, 2, RepeatBy.SEEDS))
    part = dict(zip(library.person, library.part, strict=True))
    one, other, third = (part[person] for person in faces.split.validation)
    assert one == other != third
    said = door(runs, demo_cache, "--run", "one", "--out", tmp_path / "bundle")
    assert said.status == 0, said.err


def test_help_imports_nothing_heavy() -> None:
    heavy = (
        "import sys, tune.ensemble; "
        "print(sorted({'torch', 'ray', 'optuna', 'pydantic', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"


class TestRefusals:
    def refused(self, runs: Path, cache: Path, *words: object) -> str:
        out = runs.parent / "refused"
        said = door(runs, cache, *words, "--out", out)
        assert said.status in (1, 2)
        assert said.out == ""
        assert not out.exists()
        return said.err

    def test_a_size_below_one(self, runs: Path, demo_cache: Path) -> None:
        assert "Error: --size must be at least 1, but got 0." in self.refused(
            runs, demo_cache, "--run", "one", "--size", 0
        )

    def test_a_run_without_finalists(self, runs: Path, demo_cache: Path) -> None:
        more = f"python -m tune.search --resume {runs / 'one'} --finalists 3"
        expected = f"Error: one has no finalists yet. Train them: {more}\n"
        assert self.refused(runs, demo_cache, "--run", "one") == expected

    def test_a_run_given_twice(self, both: Path, demo_cache: Path) -> None:
        assert "--run one is given twice. Name each run once." in self.refused(
            both, demo_cache, "--run", "one", "--run", both / "one"
        )

    @pytest.mark.parametrize(
        ("change", "what"),
        [({"split_digest": "f" * 12}, "split of the people"), ({"data": DataRecord(digest="e")}, "data set")],
    )
    def test_other_people_or_photos(self, both: Path, demo_cache: Path, change: dict[str, object], what: str) -> None:
        run = SearchRun.open("two", both)
        run.write_record(run.record().changed(**change))
        said = self.refused(both, demo_cache, "--run", "one", "--run", "two")
        assert f"Error: two has another {what} than one (" in said
        assert "Name runs on the same --data, --split-seed, --split and --corrections." in said

    def test_other_designs(self, both: Path, demo_cache: Path) -> None:
        let_answer(*opened(both, "two", demo_cache), Design(1, 3, RepeatBy.SEEDS), (2,), outvoting)
        said = self.refused(both, demo_cache, "--run", "one", "--run", "two")
        assert (
            "The finalists of two have 3 repeats by seeds, those of one 2 by folds, so their predictions cannot be "
            "compared." in said
        )
        assert f"python -m tune.search --resume {both / 'two'} --repeats 2 --repeat-by folds" in said

    def test_one_finalist_is_no_ensemble(self, both: Path, demo_cache: Path) -> None:
        said = self.refused(both, demo_cache, "--run", "two")
        assert (
            "An ensemble needs at least two finalists that are complete and have complete repeats, but two has 1. "
            "Train more: " in said
        )
        assert f"python -m tune.search --resume {both / 'two'} --finalists 3" in said

    def test_a_finalist_with_a_repeat_missing_does_not_take_part(
        self, both: Path, demo_cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run, faces = opened(both, "one", demo_cache)
        folder = next(folder for folder in run.finalists.iterdir() if (folder / "result.json").exists())
        (folder / "result.json").unlink()
        with caplog.at_level("WARNING", "maskcls"):
            assert len(find_candidates([run, SearchRun.open("two", both)], faces)) == 2
        assert caplog.messages[0].startswith("Finalist 000")
        assert "of one is left out: repeat " in caplog.messages[0]

    def test_a_finalist_that_was_stopped_early_does_not_take_part(
        self, tmp_path: Path, demo_cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run, faces = small_run(tmp_path, demo_cache)
        two_trials(run)
        let_answer(run, faces, Design(2, 2), (0, 1), outvoting)
        with caplog.at_level("WARNING", "maskcls"), pytest.raises(CallError, match="but small has 1"):
            find_candidates([run], faces)
        assert (
            "Finalist 0001 of small is left out: the trial was stopped early, and is not trained to its end (not "
            f"done). To train it: {run.resume_command}" in caplog.messages
        )

    def test_one_that_diverged_on_its_way_to_the_end_is_not_advised_to_be_trained(
        self, tmp_path: Path, demo_cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run, faces = small_run(tmp_path, demo_cache)
        _, stopped = two_trials(run)
        let_answer(run, faces, Design(2, 2), (0, 1), outvoting)
        write_end(run, stopped, None)
        with caplog.at_level("WARNING", "maskcls"), pytest.raises(CallError, match="but small has 1"):
            find_candidates([run], faces)
        assert caplog.messages == [
            "Finalist 0001 of small is left out: the trial was stopped early, then trained to its end: diverged. loss "
            "is nan"
        ]

    def test_one_that_was_then_trained_to_its_end_takes_part(self, tmp_path: Path, demo_cache: Path) -> None:
        run, faces = small_run(tmp_path, demo_cache)
        _, stopped = two_trials(run)
        let_answer(run, faces, Design(2, 2), (0, 1), outvoting)
        write_end(run, stopped, 0.7)
        found = find_candidates([run], faces)
        assert [(one.finalist.trial_id, one.finalist.model_f1) for one in found] == [("0000", 0.5), ("0001", 0.7)]
        decision = decide([run], faces, Design(2, 2), 2)
        assert [line.split()[-1] for line in table(decision, Design(2, 2))] == ["validation", "0.5000", "0.7000"]

    @pytest.mark.parametrize(("n", "sharing"), [(1, False), (2, True)])
    def test_validation_people_who_cannot_be_divided(
        self, runs: Path, demo_cache: Path, n: int, *, sharing: bool
    ) -> None:
        run, _ = validated_by(runs, demo_cache, n, sharing=sharing)
        said = self.refused(runs, demo_cache, "--run", "one")
        assert f"validated (here {n}) are to select an ensemble by one part of them and score it on another" in said
        assert f"Repeat the finalists by folds: python -m tune.search --resume {run.path} --repeat-by folds" in said

    @pytest.mark.slow
    def test_a_bundle_in_the_way(self, both: Path, demo_cache: Path, tmp_path: Path) -> None:
        out = tmp_path / "bundle"
        assert door(both, demo_cache, "--run", "one", "--out", out).status == 0
        said = door(both, demo_cache, "--run", "one", "--out", out)
        assert (said.status, said.out) == (2, "")
        assert f"{out} holds a bundle already." in said.err
        assert (
            door(both, demo_cache, "--run", "one", "--run", "two", "--out", out, "--overwrite", "--size", 3).status == 0
        )
        assert len(json.loads((out / "bundle.json").read_text())["classifiers"]) == 3
