"""What stands around a search: who may drive, where it runs, and how it ends.

How a signal ends it, and that the same call finds the same: test_begin_or_resume.py.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState

from maskcls.errors import RunError
from tests import commands
from tests.tune.search.test_command import call, recorded_run, refused
from tests.tune.searches import table
from tune.runs import cluster
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import MESSAGE, ORIGIN, PRESET, STATE, open_study
from tune.search import __main__ as search
from tune.search.ending import SearchOutcome, hand_over
from tune.search.options import SearchOptions
from tune.states import TrialState


def ended_badly(folder: Path) -> SearchRun:
    """A run of one trial, which failed."""
    run = recorded_run(folder, trials=1)
    study = open_study(run)
    trial = study.ask()
    for name, value in ((ORIGIN, PRESET), (STATE, TrialState.FAILED), (MESSAGE, "RunError: no weights")):
        trial.set_user_attr(name, value)
    study.tell(trial, state=OptunaState.FAIL)
    return run


@pytest.mark.usefixtures("ray_cluster")
def test_more_folds_than_people_are_refused_before_any_trial(few_faces: tuple[str, ...], tmp_path: Path) -> None:
    words = ("--space", "freezing", "--scale", "cpu", "--repeats", 25, "--name", "one", "--runs", tmp_path)
    said = commands.call(search.main, *words, *few_faces)
    assert said.status == 2
    assert "--repeats 25: `2 <= folds <= people` must hold, but got 25 folds of" in said.err
    assert "Take fewer, or --repeat-by seeds." in said.err
    assert not (tmp_path / "one").exists()


def test_a_search_in_which_nothing_scored_has_failed(tmp_path: Path) -> None:
    run = ended_badly(tmp_path)
    said = commands.call(search.main, "--resume", "one", "--runs", tmp_path)
    assert said.status == 1
    assert "Search finished without a model. Trials: 1 failed." in said.out
    reason = "(1 of 1 trial, for example trial 0000): failed: RunError: no weights"
    assert said.err.endswith(f"Error: No trial gave a model. The commonest reason {reason}\n")
    assert run.report.exists()
    assert [row["state"] for row in table(run)] == ["failed"]


def test_a_cluster_out_of_reach_is_an_event_as_well(tmp_path: Path) -> None:
    words = ("-m", "tune.search", "--address", "127.0.0.1:9", "--json", "--runs", tmp_path)
    driver = commands.start(*words)  # this process may have joined a Ray, and would use that
    out, err = driver.communicate()
    (done,) = map(json.loads, out.splitlines())
    assert (driver.returncode, done["event"], done["reason"], done["status"]) == (1, "done", "failed", 1)
    assert "cannot be reached" in done["message"]
    assert err == f"Error: {done['message']}\n"


def test_an_interruption_before_any_model_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ended_badly(tmp_path)
    interrupted = SearchOutcome(Outcome(Reason.INTERRUPTED, 3, signal.SIGINT))
    assert hand_over(run, SearchOptions(space="freezing", runs=tmp_path), interrupted) == 130
    said = capsys.readouterr()
    assert said.err == ""
    assert "Search interrupted before any trial gave a model. Trials: 1 failed." in said.out
    assert f"3 trials are left to do (interrupted). To go on:\n  {run.resume_command}\n" in said.out


def test_a_second_driver_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    run = recorded_run(tmp_path)
    before = run.search_file.read_text()
    with run.driving():
        assert "Another driver is working on" in refused(1, "--resume", "one", "--trials", "7", "--runs", tmp_path)
    assert run.search_file.read_text() == before


def test_a_journal_torn_in_its_first_line_is_mended_before_it_is_read(tmp_path: Path) -> None:
    run = ended_badly(tmp_path)
    run.journal.write_bytes(run.journal.read_bytes().splitlines()[0][:-4])
    call("--resume", "one", "--plan", "--runs", tmp_path)
    assert b"\n" not in run.journal.read_bytes(), "a plan writes nothing"


@pytest.mark.usefixtures("ray_cluster")
def test_how_a_driver_failed_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = recorded_run(tmp_path)
    run.data.mkdir()
    for name in ("photos.csv", "split.json"):
        (run.data / name).touch()

    def fails(*arguments: object, **settings: object) -> None:
        raise RunError("The disk is full.")

    monkeypatch.setattr("tune.search.session.check_data", lambda run, options: None)  # there are no photos
    monkeypatch.setattr("tune.search.driver.drive", fails)
    assert "The disk is full." in refused(1, "--resume", "one", "--runs", tmp_path)
    (session,) = run.record().sessions
    assert session.reason == "failed: The disk is full."


@pytest.mark.parametrize("words", [("--address", "head:6379"), ()])
def test_the_plan_is_for_the_cluster_that_is_joined(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """RAY_ADDRESS is set where a job was submitted; its own machine may have no GPU."""

    @contextmanager
    def joined(address: str | None) -> Iterator[cluster.Cluster]:
        assert address == "head:6379"
        yield cluster.Cluster((cluster.Node(4, 0), cluster.Node(8, 2)))

    monkeypatch.setattr(cluster, "connected", joined)
    monkeypatch.setattr(cluster, "reach", [].append)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1" if words else "head:6379")
    assert "2 at a time, 4 cores, 1 GPUs each" in " ".join(call("--space", "freezing", "--plan", *words).split())
