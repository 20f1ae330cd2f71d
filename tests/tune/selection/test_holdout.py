"""Looking at the holdout: the score and its interval, what is counted, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import f1_score

from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.errors import CallError, DataError
from maskcls.serving.bundle import read_bundle
from maskcls.serving.export import export
from maskcls.serving.holdout_uses import USES, bundle_digest
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.tune.selection.small_run import BASE, small_run
from tune.runs.folder import ComparisonRun, SearchRun
from tune.runs.holdout_record import holdout_evaluations
from tune.runs.holdout_uses import holdout_note, holdout_uses
from tune.runs.record import ComparisonRecord, DataRecord
from tune.selection.holdout import evaluate_on_holdout
from tune.statistics import intervals
from tune.statistics.intervals import Interval, f1_interval

Made = tuple[SearchRun, FaceDataset, Fit]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> Fit:
    _, faces = small_run(tmp_path_factory.mktemp("runs"), demo_cache)
    recipe = BASE.override({"epochs": 1, "task_split": "three"})
    fitted = Fit(recipe, FitData.of(faces, recipe))
    list(fitted.epochs())
    return fitted


@pytest.fixture
def made(tmp_path: Path, demo_cache: Path, fit: Fit) -> Made:
    run, faces = small_run(tmp_path, demo_cache)
    export(run.best, fit.recipe, fit.best_states(), scores={}, faces=faces)
    return run, faces, fit


def test_a_look_scores_the_holdout_people_alone(made: Made) -> None:
    run, faces, fit = made
    found = evaluate_on_holdout(run, faces, run.best, "trial 0007")
    rows = faces.rows("holdout")
    truth = faces.photos["label"].to_numpy()[rows]
    answers = fit.log_probs(rows).argmax(1)
    assert found.f1 == pytest.approx(
        f1_score(truth, answers, labels=np.unique(truth), average="macro", zero_division=0), abs=1e-12
    )
    assert found.scores["f1"] == pytest.approx(found.f1, abs=1e-12)
    assert (found.people, found.photos, found.what) == (len(faces.split.holdout), len(rows), "trial 0007")
    assert found.low < found.f1 < found.high
    assert holdout_evaluations(run.record()) == [found]


def test_looks_are_counted_by_bundle(made: Made) -> None:
    run, faces, fit = made
    first = evaluate_on_holdout(run, faces, run.best, "trial 0007")
    export(run.best, fit.recipe, fit.best_states(), scores={"epoch": 3}, faces=faces, overwrite=True)
    assert evaluate_on_holdout(run, faces, run.best, "once more") == first
    other = [{name: tensor + (tensor.dim() == 2) for name, tensor in state.items()} for state in fit.best_states()]
    export(run.path / "other", fit.recipe, other, scores={}, faces=faces)
    second = evaluate_on_holdout(run, faces, run.path / "other", "other")
    assert holdout_evaluations(run.record()) == [first, second]
    assert first.bundle != second.bundle


def scored(
    runs: Path, cache: Path, name: str, fit: Fit, *, add: float = 0.0, labels_of: str = ""
) -> tuple[SearchRun, FaceDataset]:
    """A run with its own bundle, scored on the holdout.

    Args:
        add: to the weights, for another bundle.
        labels_of: digest of other photos, in place of the run's own.
    """
    run, faces = small_run(runs, cache, name)
    data = DataRecord(digest=labels_of or faces.digest)
    run.write_record(run.record().changed(data=data, split_digest=faces.split.digest))
    states = [{key: tensor + add * (tensor.dim() == 2) for key, tensor in state.items()} for state in fit.best_states()]
    export(run.best, fit.recipe, states, scores={}, faces=faces)
    evaluate_on_holdout(run, faces, run.best, f"trial of {name}")
    return run, faces


@pytest.mark.slow
def test_uses_are_counted_over_all_runs_of_the_same_people(tmp_path: Path, demo_cache: Path, fit: Fit) -> None:
    first, _ = scored(tmp_path, demo_cache, "first", fit)
    assert holdout_note(first) == "The holdout has been used 1 time."
    scored(tmp_path, demo_cache, "same", fit)
    assert len(holdout_uses(first)) == 1, "the same bundle tells nobody anything new"
    scored(tmp_path, demo_cache, "other-photos", fit, add=2.0, labels_of="0" * 12)
    assert len(holdout_uses(first)) == 1
    second, _ = scored(tmp_path, demo_cache, "second", fit, add=1.0)
    said = "The holdout has been used 2 times, in first, second: the best of those scores is too high again."
    assert holdout_note(first) == holdout_note(second) == said
    assert [use.run for use in holdout_uses(second)] == ["first", "second"]

    shutil.rmtree(second.path)
    assert holdout_note(first) == said, "a run that is deleted has still used it"
    (tmp_path / USES).unlink()
    assert len(holdout_uses(first)) == 1
    damaged, _ = scored(tmp_path, demo_cache, "damaged", fit, add=3.0)
    damaged.record_file.write_text("{")
    assert len(holdout_uses(first)) == 2, "what is noted beside the runs"


def test_uses_of_earlier_versions_count_as_they_are_recorded(tmp_path: Path, demo_cache: Path, fit: Fit) -> None:
    old, _ = scored(tmp_path, demo_cache, "old", fit)
    (tmp_path / USES).unlink()  # they wrote search.json alone
    new, _ = scored(tmp_path, demo_cache, "new", fit, add=1.0)
    # Both may have the same second.
    assert [{use.run for use in holdout_uses(run)} for run in (old, new)] == [{"old", "new"}] * 2
    noted = [json.loads(line)["run"] for line in (tmp_path / USES).read_text().splitlines()]
    assert sorted(noted) == ["new", "old"]
    unknown, faces = small_run(tmp_path, demo_cache, "unknown")  # says nothing of its photos
    export(unknown.best, fit.recipe, fit.best_states(), scores={}, faces=faces)
    evaluate_on_holdout(unknown, faces, unknown.best, "x")
    assert len(holdout_uses(unknown)) == 1
    assert len(holdout_uses(old)) == 2


def test_a_comparison_under_another_split_tests_people_of_the_holdout(
    tmp_path: Path, demo_cache: Path, fit: Fit
) -> None:
    run, faces = scored(tmp_path, demo_cache, "first", fit)
    other = replace(faces.split, train=faces.split.train[1:], holdout=faces.split.train[:1])

    def compared(name: str, split: Split, tested: tuple[str, ...]) -> ComparisonRun:
        data = DataRecord(digest=faces.digest, split_digest=split.digest)
        made = ComparisonRun.create(tmp_path, name, ComparisonRecord(created="2020-01-01", data=data))
        made.repeat(5, 0).parent.mkdir(parents=True)
        made.repeat(5, 0).write_text(Split((), (), tested).to_json())
        made.fit("a").mkdir(parents=True)
        (made.fit("a") / "result.json").write_text("{}")
        return made

    same = compared("same", faces.split, faces.split.train[:3])
    assert [use.run for use in holdout_uses(same)] == ["first"]
    compared("elsewhere", other, faces.split.train[:3])
    assert [use.run for use in holdout_uses(run)] == ["first"]
    compared("crossing", other, (*faces.split.train[:3], faces.split.holdout[0]))
    assert [use.run for use in holdout_uses(run)] == ["crossing", "first"]
    assert "2 times, in crossing, first:" in holdout_note(run)


def test_the_digest_is_of_what_answers(made: Made) -> None:
    run, _, _ = made
    manifest = read_bundle(run.best).manifest
    digest = bundle_digest(manifest)
    assert bundle_digest({**manifest, "created": "later", "scores": {"f1": 1}, "versions": {}}) == digest
    assert bundle_digest({key: value for key, value in manifest.items() if key != "holdout_hashes"}) == digest
    assert bundle_digest({**manifest, "data_digest": "other"}) != digest


def test_an_empty_holdout_is_refused(made: Made) -> None:
    run, faces, _ = made
    nobody = replace(faces, split=replace(faces.split, holdout=()))
    with pytest.raises(
        DataError, match=r"Nobody is in the holdout of small, .* Expected people under holdout in .*split\.json"
    ):
        evaluate_on_holdout(run, nobody, run.best, "x")
    assert holdout_evaluations(run.record()) == []


def test_a_bundle_that_has_seen_holdout_people_is_refused(made: Made) -> None:
    run, faces, fit = made
    split = faces.split
    swapped = replace(faces, split=replace(split, train=split.holdout, holdout=split.train))
    export(run.path / "other", fit.recipe, fit.best_states(), scores={}, faces=swapped)
    n = len(split.holdout)
    with pytest.raises(DataError, match=f"other has seen {n} of the {n} holdout people"):
        evaluate_on_holdout(run, faces, run.path / "other", "x")
    assert holdout_evaluations(run.record()) == []


def test_the_interval_is_that_of_people_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rao and Wu's resampling in plain loops, scored by scikit-learn with the people's weights."""
    monkeypatch.setattr(intervals, "RESAMPLES", 40)
    generator = np.random.default_rng(3)
    groups = np.array([0, 0, 0, 0, 4, 4, 4, 2])  # the single one of group 2 goes with the smaller other group, 4
    person = np.repeat(np.arange(8), 7)
    stratum = groups[person]
    truth = 6 * np.tile([0, 0, 0, 0, 0, 1, 2], 8) + stratum
    answers = np.where(generator.random(56) < 0.4, generator.integers(0, 18, 56), truth)
    order = generator.permutation(56)
    found = f1_interval(truth[order], answers[order], person[order].astype(str), stratum[order], seed=5)

    again = np.random.default_rng(5)

    def drawn(members: tuple[int, ...]) -> np.ndarray:
        k = len(members)
        return again.multinomial(k - 1, [1 / k] * k, size=40) * k / (k - 1)

    def scored(weight: np.ndarray) -> float:
        labels = np.unique(truth[weight[person] > 0])
        return float(
            f1_score(truth, answers, labels=labels, average="macro", sample_weight=weight[person], zero_division=0)
        )

    first, second = (0, 1, 2, 3), (4, 5, 6, 7)
    sd = np.std([scored(np.concatenate(both)) for both in zip(drawn(first), drawn(second), strict=True)])
    alone = [
        np.var([scored(np.concatenate([times, np.ones(4)])) for times in drawn(first)]),
        np.var([scored(np.concatenate([np.ones(4), times])) for times in drawn(second)]),
    ]
    degrees_of_freedom = sum(alone) ** 2 / sum(variance**2 / 3 for variance in alone)
    half = t.ppf(0.975, degrees_of_freedom) * sd
    assert found.f1 == pytest.approx(scored(np.ones(8)))
    assert (found.low, found.high) == pytest.approx((found.f1 - half, found.f1 + half), abs=1e-9)


def test_an_interval_stays_within_0_and_1() -> None:
    person, stratum = np.arange(4), np.array([0, 0, 1, 1])
    truth = np.array([0, 0, 1, 1])
    assert f1_interval(truth, truth, person, stratum) == Interval(1.0, 1.0, 1.0)
    wrong = f1_interval(truth, np.array([0, 5, 1, 1]), person, stratum)
    assert 0.0 <= wrong.low < wrong.f1 < wrong.high == 1.0


def test_what_is_no_set_of_answers_has_no_interval() -> None:
    one, none = np.zeros(3, int), np.zeros(0, int)
    with pytest.raises(CallError, match=r"arrays of one shape \(n,\) with n > 0"):
        f1_interval(one, np.zeros(2, int), one, one)
    with pytest.raises(CallError, match=r"arrays of one shape"):
        f1_interval(none, none, none, none)
