"""The decision rule of a search's bundle: fitted on what the repeats predicted, and every score is by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.data.splits import split_people
from maskcls.serving.bundle import read_bundle
from maskcls.serving.decision import cross_fitted_classes, prior_of
from maskcls.serving.predictor import probabilities_of
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import scores
from tests.benchmarks.decision import COLUMNS, row
from tests.tune.answered_run import add_trained_trial, let_answer, note_data
from tune.report.predicted import read_sets
from tune.runs.folder import SearchRun
from tune.runs.record import SearchRecord
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import records
from tune.selection.choice import Choice, confirm
from tune.selection.export import export_winner
from tune.selection.finalists import Design, people_of, pick_winner, predicted_by, read_finalists
from tune.selection.fitted import ITS_EPOCH, decided_f1, fit_on_validation
from tune.selection.record import read_choice

DESIGN = Design(1, 2)
ENDED = Outcome(Reason.FINISHED, 0)


def cautious(candidate: int, truth: np.ndarray) -> np.ndarray:
    """Knows the classes, but prefers frequent ones by far."""
    generator = np.random.default_rng(len(truth))
    shares = np.bincount(truth, minlength=18) + 1.0
    logs = generator.normal(0, 1.0, (len(truth), 18)) + 2.0 * np.log(shares)
    logs[np.arange(len(truth)), truth] += 3.0
    found = np.exp(logs - logs.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> tuple[SearchRun, FaceDataset]:
    """A run of one trial with repeats, best/ and a score on the holdout."""
    run = SearchRun.create(tmp_path_factory.mktemp("runs"), "ruled", SearchRecord(call={}))
    demo = prepare(None, cache=CacheOptions(demo_cache))
    replace(demo, split=split_people(demo.photos)).save(run.data)
    faces = FaceDataset.load(run.data, CacheOptions(demo_cache))
    note_data(run, faces)
    add_trained_trial(run, faces, 0.5, {"head": "linear", "task_split": "single"})
    let_answer(run, faces, DESIGN, (0,), cautious)
    finalists = tuple(read_finalists(run, records(run), faces, DESIGN))
    export_winner(run, finalists[0])
    confirm(run, faces, Choice(ENDED, ENDED, finalists, pick_winner(finalists)), run.best)
    return run, faces


def test_a_repeat_is_scored_by_a_rule_that_was_fitted_on_others(made: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = made
    (finalist,) = read_finalists(run, records(run), faces, DESIGN)
    together = predicted_by(finalist.repeats, faces)
    crossed = cross_fitted_classes(together, prior_of(faces))
    assert np.concatenate([one.classes for one in finalist.repeats]).tolist() == crossed.tolist()
    assert (
        np.concatenate([people_of(one.keys, faces)[0] for one in finalist.repeats]).tolist() == together.person.tolist()
    )
    for one in finalist.repeats:
        assert one.f1 == scores(one.truth, one.classes).f1
        assert one.f1 > scores(one.truth, one.log_probabilities).f1 + 0.02, "it pays"
    fitted = read_bundle(run.best).decision
    assert fitted is not None
    assert fitted.tau > 0.3
    assert fitted.fitted_on == "what 2 repeats predicted for their own validation people"
    assert fitted.log_prior == tuple(prior_of(faces))
    assert fitted.f1_after == pytest.approx(scores(together.truth, crossed).f1)


def test_the_account_is_of_the_bundle_with_its_rule(made: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = made
    bundle, choice = read_bundle(run.best), read_choice(run.record())
    assert choice is not None
    assert choice.holdout is not None
    f1 = {}
    for side in ("validation", "holdout"):
        rows = scored_rows(faces, side)
        found = np.log(probabilities_of(bundle, faces, rows, "cpu"))
        assert bundle.decision is not None
        classes = (found - bundle.decision.tau * np.array(bundle.decision.log_prior)).argmax(axis=1)
        assert (classes != found.argmax(axis=1)).any()
        f1[side] = scores(faces.photos["label"].to_numpy(np.int64)[rows], classes).f1
    assert choice.holdout.f1 == pytest.approx(f1["holdout"])
    assert choice.model_f1 == decided_f1(run.best) == pytest.approx(f1["validation"])
    assert choice.optimism == pytest.approx(f1["validation"] - f1["holdout"])
    assert bundle.scores["validation"]["f1"] == pytest.approx(f1["validation"])
    assert 0 < bundle.scores[ITS_EPOCH] < 1, "what the search scored stays beside it"
    sets = read_sets(run, faces, records(run), choice, "trial 0000", predicts=True)
    for shown, expected in ((sets.holdout, f1["holdout"]), (sets.validation, f1["validation"])):
        assert shown is not None
        assert scores(shown.truth, shown.predicted).f1 == pytest.approx(expected)
    assert sets.repeats is not None
    repeats = read_finalists(run, records(run), faces, DESIGN)[0].repeats
    assert sets.repeats.predicted.tolist() == np.concatenate([one.classes for one in repeats]).tolist()
    old = replace(choice, by_rule=False)
    sets = read_sets(run, faces, records(run), old, "trial 0000", predicts=False, sides=())
    assert sets.repeats is not None
    assert sets.repeats.decided is None, "a choice of an earlier version was by the likeliest classes"


def test_without_repeats_the_validation_people_say_whether_it_pays(
    made: tuple[SearchRun, FaceDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too few people nothing is fitted; the bundle then names the likeliest class, and its score stays."""
    run, faces = made
    assert len(faces.split.validation) < 40
    from tune.selection.export import export_trial

    monkeypatch.setattr("tune.selection.export.finalist_of", lambda *_: None)
    export_trial(run, "0000", tmp_path / "b")
    bundle = read_bundle(tmp_path / "b")
    assert bundle.decision is None
    assert ITS_EPOCH not in bundle.scores
    monkeypatch.setattr("maskcls.serving.decision.LEAST_PEOPLE", 5)
    fit_on_validation(tmp_path / "b", faces)
    bundle = read_bundle(tmp_path / "b")
    assert (bundle.decision is None) == (ITS_EPOCH not in bundle.scores)


def test_the_benchmark_says_what_the_rule_brings(made: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = made
    (finalist,) = read_finalists(run, records(run), faces, DESIGN)
    cells = [cell.strip() for cell in row(finalist, faces).strip("|").split("|")]
    assert cells[:3] == ["0000", "single, none, 0 frozen", "2"]
    assert float(cells[4]) == pytest.approx(finalist.mean, abs=6e-4)
    assert float(cells[4]) - float(cells[3]) == pytest.approx(float(cells[5].split()[0]), abs=2e-3)
    assert len(cells) + 1 == len(COLUMNS)
