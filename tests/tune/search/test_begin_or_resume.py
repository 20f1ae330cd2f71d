"""--begin-or-resume: the very same words begin a search, go on with it after each kill, and find it complete."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests import commands
from tests.tune.runs.documented_events import read_events
from tests.tune.search.test_command import ENDED, recorded_run
from tests.tune.search.test_events import TINY, started
from tests.tune.search.test_kill import wait_for
from tune.fitting.curve import read_curve
from tune.runs.folder import SearchRun
from tune.runs.record import Session
from tune.runs.session import has_data
from tune.runs.stopping import Reason
from tune.runs.study import Record, records
from tune.search.__main__ import main
from tune.states import TrialState

WORDS = ("--name", "one", "--begin-or-resume", "--trials", "3", "--epochs", "2", "--finalists", "0")


def wait_until_there(file: Path, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file}"
        time.sleep(0.005)


def kill(search: subprocess.Popen[str]) -> None:
    search.kill()
    search.communicate()


def some_at_work(found: list[Record]) -> bool:
    """A trial has ended, and another has begun."""
    states = {record.state for record in found}
    return TrialState.UNFINISHED in states and bool(states & set(ENDED))


@pytest.mark.timeout(600)
def test_the_same_words_again_and_again_make_one_search(
    tmp_path: Path, few_faces: tuple[str, ...], ray_cluster: str
) -> None:
    run = SearchRun(tmp_path / "one")
    first = started(tmp_path, few_faces, ray_cluster, *WORDS)
    wait_until_there(run.record_file)
    kill(first)
    assert not has_data(run), "killed before its data lay there"

    second = started(tmp_path, few_faces, ray_cluster, *WORDS)
    kept = {record.trial_id: record for record in wait_for(run.path, some_at_work) if record.state in ENDED}
    kill(second)

    third = started(tmp_path, few_faces, ray_cluster, *WORDS, "--json")
    assert third.stdout is not None
    line = third.stdout.readline()
    assert [(one["event"], one["resumed"]) for one in read_events([line])] == [("run", True)]
    beside = commands.call(main, *TINY, *WORDS, "--runs", tmp_path, *few_faces)
    assert beside.status == 1
    assert beside.err.endswith(
        f"Error: Another driver is working on {run.path}. Wait for it, or end it, and try again.\n"
    )
    third.stdout.close()  # the reader goes away, and the run goes on
    assert third.stderr is not None
    err = third.stderr.read()
    assert third.wait() == 0, err
    assert err.count("No more events are written (Broken pipe); the run goes on.") == 1

    found = {record.trial_id: record for record in records(run)}
    assert list(found) == ["0000", "0001", "0002"]
    assert {trial: found[trial] for trial in kept} == kept
    assert all(record.state in ENDED for record in found.values())
    assert [len(read_curve(run.trial(trial))) for trial in found] == [record.epochs for record in found.values()]
    assert (run.best / "bundle.json").exists()

    before = run.record_file.read_text()
    again = commands.call(main, *TINY, *WORDS, "--runs", tmp_path, *few_faces)
    assert again.status == 0
    assert "Nothing is left to do: one has 3 trials, and 3 are wanted." in again.out
    assert run.record_file.read_text() == before


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--epochs", "4"], "--epochs is 3 in the run, but 4 was given"),
        ([], "--epochs is 3 in the run, but was not given (default: not set)"),
        (["--epochs", "3", "--split-seed", "1"], "--split-seed is 0 in the run, but 1 was given"),
        (["--epochs", "3", "--set", "head=linear"], "--set is head=mlp in the run, but head=linear was given"),
    ],
)
def test_another_search_under_the_name_is_refused(tmp_path: Path, other: list[str], message: str) -> None:
    run = recorded_run(tmp_path)
    before = run.record_file.read_text()
    words = ["--space", "freezing", "--name", "one", "--begin-or-resume", "--runs", str(tmp_path), *other]
    words += [] if "--set" in other else ["--set", "head=mlp"]
    said = commands.call(main, *words)
    assert said.status == 2
    assert f"--begin-or-resume found the run one, which has other settings: {message}. Give" in said.err
    assert run.record_file.read_text() == before


def test_the_plan_is_that_of_whichever_is_due(tmp_path: Path) -> None:
    words = ["--space", "freezing", "--epochs", "3", "--set", "head=mlp", "--trials", "4", "--scale", "cpu"]
    words += ["--runs", str(tmp_path), "--name", "one", "--begin-or-resume", "--plan"]
    begun = commands.call(main, *words)
    assert begun.status == 0
    assert list(tmp_path.iterdir()) == []
    recorded_run(tmp_path)
    assert commands.call(main, *words).out == begun.out


def test_a_search_bounded_by_time_alone_is_complete_when_its_time_was_up(tmp_path: Path) -> None:
    run = recorded_run(tmp_path, trials=None, time_budget="1h", finalists=0)
    words = ["--space", "freezing", "--epochs", "3", "--set", "head=mlp", "--time-budget", "1h", "--finalists", "0"]
    words += ["--runs", str(tmp_path), "--name", "one", "--begin-or-resume"]
    killed, done = Session.begun(), Session.begun().changed(reason=Reason.TIME_UP)
    run.write_record(run.record().changed(sessions=[done, killed]))
    assert "Trials: as many as the time allows" in commands.call(main, *words, "--plan").out
    run.write_record(run.record().changed(sessions=[killed, done]))
    said = commands.call(main, *words, "--plan")
    assert said.status == 0
    assert said.out == (
        "Nothing is left to do: one has 0 trials, and its time is up. More with --resume one --time-budget TIME.\n"
    )


def test_a_folder_that_is_no_run_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    said = commands.call(main, *TINY, *WORDS, "--runs", tmp_path)
    assert said.status == 2
    assert f"{tmp_path / 'one'} is no run: it has no search.json." in said.err
