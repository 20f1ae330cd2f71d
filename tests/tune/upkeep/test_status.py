"""`maskcls status`: a run, live or finished, and a cluster's nodes, in a few lines or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskcls.storage.store import Store
from maskcls.text import counted
from tests.commands import Said, call
from tests.tune.made_run import made_run
from tune.runs import leaderboard
from tune.runs.folder import ComparisonRun, SearchRun
from tune.runs.record import MANY, NOT_ENDED, ComparisonRecord, Session
from tune.runs.stored.folder import StoredFolder
from tune.runs.study import open_study, records
from tune.upkeep.status import main


@pytest.fixture
def run(tmp_path: Path) -> SearchRun:
    return made_run(tmp_path / "runs", 8, message="division by zero")


def status(run: SearchRun, *words: object) -> Said:
    return call(main, *words, "--runs", run.path.parent)


def test_a_finished_run_says_trials_epochs_best_and_failures(run: SearchRun) -> None:
    trials = records(run)
    best = leaderboard.best(trials)
    assert best is not None
    first, of_trials, of_best, *failures = status(run, "made").out.splitlines()
    assert first.startswith("made: search, complete; begun ")
    assert first.endswith(" ago.")
    epochs = counted(sum(trial.epochs for trial in trials), "epoch")
    assert of_trials == f"Trials: 8 ended (5 complete, 1 stopped early, 1 diverged, 1 failed); {epochs}."
    assert of_best.startswith(f"Best: trial {best.trial_id}, validation macro F1 {best.f1:.4f} at epoch ")
    assert failures == ["Trial 0005 diverged", "Trial 0007 failed: division by zero"]


def test_a_live_run_is_read_beside_its_driver(run: SearchRun) -> None:
    run.write_record(run.record().changed(sessions=[Session(reason=NOT_ENDED, trials=12)]))
    with run.driving():
        study = open_study(run)
        trial = study.ask()
        trial.report(0.5, 1)
        said = status(run, run.path)
    assert said.status == 0, said.err
    assert said.out.startswith(f"made: search, {NOT_ENDED}; begun ")
    assert "Trials: 8 of 12 ended (5 complete, 1 stopped early, 1 diverged, 1 failed, 1 unfinished)" in said.out


def test_a_search_that_the_time_bounds_has_no_number_of_trials(run: SearchRun) -> None:
    run.write_record(run.record().changed(sessions=[Session(reason=NOT_ENDED, trials=MANY)]))
    assert "Trials: 8 ended (" in status(run, "made").out
    assert json.loads(status(run, "made", "--json").out)["run"]["wanted"] == 0


def test_the_same_is_one_json_object(run: SearchRun) -> None:
    found = json.loads(status(run, "made", "--json").out)
    assert found.keys() == {"run"}
    assert found["run"]["ended"] == 8
    assert found["run"]["best"]["f1"] == max(trial.f1 or 0 for trial in records(run))
    assert [one["trial"] for one in found["run"]["failures"]] == ["0005", "0007"]


def test_a_search_is_seen_in_the_storage_that_keeps_it(run: SearchRun, tmp_path: Path) -> None:
    storage = tmp_path / "kept"
    StoredFolder(Store(str(storage), "made"), run.path, deep=False).send()
    kept = status(run, "made", "--storage", storage)
    assert kept.out.splitlines()[1:] == status(run, "made").out.splitlines()[1:]
    assert json.loads(status(run, "made", "--storage", storage, "--json").out)["run"]["path"] == f"{storage}/made"
    assert "There is no search 'mad' in the storage" in status(run, "mad", "--storage", storage).err


def test_a_damaged_run_and_a_comparison_are_said_as_they_are(run: SearchRun) -> None:
    ComparisonRun.create(run.path.parent, "ask", ComparisonRecord(created="2030-01-01T00:00:00+0000"))
    assert status(run, "ask").out.splitlines()[1] == "0 fits ended."
    run.record_file.write_text("{")
    said = status(run, "made").out
    assert said.startswith("made: search, damaged; ")
    assert "search.json can't be read" in said


def test_a_cluster_says_its_nodes(run: SearchRun, ray_cluster: str) -> None:
    said = status(run, "made", "--address", ray_cluster)
    assert said.status == 0, said.err
    assert said.out.startswith("made: search, complete")
    *_, nodes, node = said.out.splitlines()
    assert nodes == "Cluster: 1 node alive."
    assert node.endswith(" of 2 cores in use")
    (found,) = json.loads(status(run, "--address", ray_cluster, "--json").out)["nodes"]
    assert found["is_alive"]
    assert found["total"]["CPU"] == 2


def test_what_is_asked_for_must_be_there(run: SearchRun) -> None:
    assert status(run).err.startswith("Error: Name a run, or a cluster with --address.")
    assert "Runs there: made." in status(run, "mad").err
    assert "expected auto, or HOST:PORT" in status(run, "--address", "somewhere").err
    assert "cannot be reached" in status(run, "--address", "127.0.0.1:1").err
