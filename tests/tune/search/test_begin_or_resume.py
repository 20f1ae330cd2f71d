"""--begin-or-resume: the very same words begin a search, go on with it after a kill and a signal, and find it complete.

What they find in pieces is what an unbroken search finds.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import commands
from tests.tune.runs.documented_events import read_events
from tests.tune.search.test_command import call, recorded_run
from tests.tune.search.test_events import TINY, started
from tests.tune.search.test_kill import no_worker_left, none_left, wait_for
from tests.tune.searches import reported, table
from tests.tune.synthetic import fit_and_tell_threads
from tune.fitting.curve import read_curve
from tune.runs.folder import SearchRun
from tune.runs.record import Session
from tune.runs.session import has_data
from tune.runs.stopping import Reason
from tune.runs.study import records
from tune.search.__main__ import main

WORDS = ("--name", "one", "--begin-or-resume", "--trials", "3", "--epochs", "2", "--finalists", "0")


def wait_until_there(file: Path, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not file.exists():
        assert time.monotonic() < deadline, f"no {file}"
        time.sleep(0.005)


class Interrupted(NamedTuple):
    """A run whose driver was ended by SIGTERM, how it exited, what it printed, and what the run says of it."""

    run: SearchRun
    status: int
    out: str
    err: str
    session: Session


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, few_faces: tuple[str, ...], ray_cluster: str) -> Interrupted:
    """Its driver got SIGTERM when the first trial began."""
    runs = tmp_path_factory.mktemp("it's my runs")
    run = SearchRun(runs / "one")
    driver = started(runs, few_faces, ray_cluster, *WORDS)
    wait_for(run.path, lambda found: len(found) == 1, 300)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert none_left(driver)
    assert no_worker_left("ray::ImplicitFunc")
    return Interrupted(run, driver.returncode, out, err, run.record().sessions[-1])


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_sigterm_ends_a_search_cleanly_and_what_it_prints_goes_on(
    interrupted: Interrupted, few_faces: tuple[str, ...]
) -> None:
    assert interrupted.status == 143, interrupted.err
    assert interrupted.session.reason == Reason.INTERRUPTED
    assert "Traceback" not in interrupted.err
    assert "Error" not in interrupted.err, "that there is no model yet is no failure"
    assert "Search interrupted before any trial gave a model. Trials: 1 unfinished." in interrupted.out
    (resume,) = re.findall(r"3 trials are left to do \(interrupted\).* To go on:\n  (.*)\n", interrupted.out)
    python, dash_m, module, *copied = shlex.split(resume)
    assert (python, dash_m, module) == ("python", "-m", "tune.search")
    assert "Trials: 3" in call(*copied, "--plan", *few_faces)


@pytest.fixture(scope="module")
def completed(interrupted: Interrupted, few_faces: tuple[str, ...], ray_cluster: str) -> tuple[SearchRun, str]:
    """The same run after a second driver, here, and its events."""
    said = commands.call(main, *TINY, *WORDS, "--json", "--runs", interrupted.run.path.parent, *few_faces)
    assert said.status == 0, said.err
    return interrupted.run, said.out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_words_again_and_again_make_one_search(
    completed: tuple[SearchRun, str], few_faces: tuple[str, ...]
) -> None:
    run, said = completed
    begun, *_, done = read_events(said.splitlines(keepends=True))
    assert (begun["event"], begun["resumed"], done["event"]) == ("run", True, "done")
    assert [record.trial_id for record in records(run)] == ["0000", "0001", "0002"]
    assert all(record.state.ended for record in records(run))
    assert (run.best / "bundle.json").exists()

    before = run.record_file.read_text()
    again = commands.call(main, *TINY, *WORDS, "--runs", run.path.parent, *few_faces)
    assert again.status == 0
    assert "Nothing is left to do: one has 3 trials, and 3 are wanted." in again.out
    assert run.record_file.read_text() == before


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_search_that_was_killed_before_it_had_its_data_is_begun_by_the_same_words(
    tmp_path: Path, few_faces: tuple[str, ...], ray_cluster: str
) -> None:
    run = SearchRun(tmp_path / "one")
    driver = started(tmp_path, few_faces, ray_cluster, *WORDS)
    wait_until_there(run.record_file)
    driver.kill()
    driver.communicate()
    assert not has_data(run), "killed before its data lay there"
    call(*TINY, *WORDS, "--runs", tmp_path, *few_faces)
    assert all(record.state.ended for record in records(run))
    assert (run.best / "bundle.json").exists()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_an_unbroken_search_finds_the_same(
    completed: tuple[SearchRun, str], few_faces: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the threads that it was given."""
    run, _ = completed
    monkeypatch.setattr("tune.fitting.worker.run_fit", fit_and_tell_threads)
    words = ["unbroken" if word == "one" else word for word in WORDS]
    call(*TINY, *words, "--runs", run.path.parent, *few_faces)
    unbroken = SearchRun(run.path.parent / "unbroken")
    assert table(unbroken, seconds=False) == table(run, seconds=False)
    assert reported(unbroken) == reported(run)
    threads = [(row["torch_threads"], row["opencv_threads"]) for row in read_curve(unbroken.trial("0000"))]
    assert threads == [(1, 1)] * len(threads), "a trial keeps to the cores it was given"


@pytest.mark.slow
def test_the_run_takes_no_more_of_the_disk_than_its_plan_says(
    completed: tuple[SearchRun, str], few_faces: tuple[str, ...]
) -> None:
    run, _ = completed
    taken = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    words = ["planned" if word == "one" else word for word in WORDS]
    said = call(*TINY, *words, "--plan", "--runs", run.path.parent, *few_faces)
    (megabytes,) = re.findall(r"in the run, of which (\d+)\s+MB\s+stay", said)
    assert taken <= int(megabytes) * 1e6 <= 5 * taken


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quiet_leaves_the_result(completed: tuple[SearchRun, str]) -> None:
    run, _ = completed
    shutil.rmtree(run.best)  # as a driver leaves it that is killed after its last trial's end
    said = commands.call(main, "--resume", run.path, "--quiet")
    assert (said.status, said.err) == (0, "")
    best, *where = said.out.splitlines()
    first = max(records(run), key=lambda record: record.f1 or 0.0)
    assert best == (
        f"Best: trial {first.trial_id}, validation macro F1 {first.f1:.4f} at epoch {first.best_epoch} of "
        f"{first.epochs}."
    )
    assert where == [f"Bundle: {run.best}", f"Report: {run.report}"]

    again = commands.call(main, "--resume", run.path, "--quiet", "--json")
    run_event, done = read_events(again.out.splitlines(keepends=True))
    assert (again.status, again.err) == (0, "")
    assert (run_event["event"], run_event["resumed"]) == ("run", True)
    assert (done["event"], done["reason"], done["bundle"]) == ("done", "finished", str(run.best))
    said = commands.call(main, "--resume", run.path, "--quiet")
    assert (said.out, said.err) == (
        "Nothing is left to do: one has 3 trials, and 3 are wanted. More with --trials N.\n",
        "",
    )


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
        "What follows the trials is left to do: one has 0 trials, and its time is up. More with "
        f"{run.resume_command} --time-budget TIME\n"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_when_the_time_was_up_the_same_words_begin_no_trial(
    completed: tuple[SearchRun, str], few_faces: tuple[str, ...], tmp_path: Path
) -> None:
    run = SearchRun(Path(shutil.copytree(completed[0].path, tmp_path / "one")))
    record = run.record()
    call = {**record.call, "trials": None, "time_budget": "1h"}
    sessions = [*record.sessions, Session.begun().changed(reason=Reason.TIME_UP)]
    run.write_record(record.changed(call=call, sessions=sessions))
    words = ["--name", "one", "--begin-or-resume", "--epochs", "2", "--time-budget", "1h", "--runs", tmp_path]
    said = commands.call(main, *TINY, *words, "--finalists", "0", *few_faces)
    assert said.status == 0, said.err
    complete = "Nothing is left to do: one has 3 trials, and its time is up."
    assert complete in said.out
    some = (*TINY, *words, "--finalists", "1", "--repeats", "2", *few_faces)
    again = commands.call(main, *some)
    assert again.status == 0, again.err
    assert "Trained again: the best trial" in again.err
    assert complete in commands.call(main, *some).out, "a session that only chose says nothing of the time"
    run.report.unlink()  # as by a kill before the end
    commands.call(main, *some)
    assert run.report.exists()
    assert len(records(run)) == 3


def test_a_folder_that_is_no_run_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    said = commands.call(main, *TINY, *WORDS, "--runs", tmp_path)
    assert said.status == 2
    assert f"{tmp_path / 'one'} is no run: it has no search.json." in said.err
