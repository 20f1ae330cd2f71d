"""What stands around a search: who may drive, where it runs, how it ends, and that the same call finds the same."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState

from maskcls.errors import RunError
from tests import commands
from tests.tune.search.test_command import call, recorded_run, refused
from tests.tune.search.test_kill import none_left, wait_for
from tests.tune.searches import reported, table
from tests.tune.synthetic import fit_and_tell_threads
from tune.fitting.curve import read_curve
from tune.runs import cluster
from tune.runs.folder import SearchRun
from tune.runs.study import MESSAGE, ORIGIN, PRESET, STATE, open_study
from tune.search import __main__ as search
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


def test_a_search_in_which_nothing_scored_has_failed(tmp_path: Path) -> None:
    run = ended_badly(tmp_path)
    said = commands.call(search.main, "--resume", "one", "--runs", tmp_path)
    assert said.status == 1
    assert "Search finished without a model. Trials: 1 failed." in said.out
    reason = "(1 of 1 trial, for example trial 0000): failed: RunError: no weights"
    assert said.err.endswith(f"Error: No trial gave a model. The commonest reason {reason}\n")
    assert run.report.exists()
    assert [row["state"] for row in table(run)] == ["failed"]


@pytest.mark.timeout(500)
def test_sigterm_ends_a_search_cleanly_and_what_it_prints_goes_on(tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    runs = tmp_path / "it's my runs"
    words = ["--space", "freezing", "--name", "one", "--trials", "40", "--epochs", "3", "--image-size", "32"]
    words += [
        "--set",
        "batch_size=128",
        "--set",
        "backbone=lcnet_050",
        "--runs",
        str(runs),
        "--parallel",
        "1",
        *few_faces,
    ]
    driver = commands.start("-m", "tune.search", *words)
    wait_for(runs / "one", lambda found: any(record.epochs for record in found), 300)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=120)
    assert driver.returncode == 143, err
    assert "Traceback" not in err
    assert none_left(driver)
    (session,) = SearchRun(runs / "one").record().sessions
    assert session.reason == "interrupted"
    (resume,) = re.findall(r"trials are left to do \(interrupted\).* To go on:\n  (.*)\n", out)
    python, dash_m, module, *copied = shlex.split(resume)
    assert (python, dash_m, module) == ("python", "-m", "tune.search")
    assert "Trials: 40" in call(*copied, "--plan", *few_faces)


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

    def fails(*arguments: object) -> None:
        raise RunError("The disk is full.")

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
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1" if words else "head:6379")
    assert "2 at a time, 4 cores, 1 GPUs each" in " ".join(call("--space", "freezing", "--plan", *words).split())


def test_the_same_search_finds_the_same_also_in_a_fresh_process_at_an_address(
    tmp_path: Path, few_faces: tuple[str, ...], ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr("tune.fitting.worker.run_fit", fit_and_tell_threads)
    common = [
        "--space",
        "freezing",
        "--trials",
        "3",
        "--epochs",
        "1",
        "--image-size",
        "32",
        "--set",
        "batch_size=128",
        "--seed",
        "5",
    ]
    common += ["--finalists", "0"]
    common += ["--parallel", "1", "--cpus-per-trial", "1", "--runs", str(tmp_path / "runs"), *few_faces]
    call(*common, "--name", "one")
    again = commands.start("-m", "tune.search", *common, "--name", "two", "--address", ray_cluster)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert f"Ray's dashboard: http://{ray.init(ignore_reinit_error=True).dashboard_url}" in out, (
        "it ran in the tests' own Ray"
    )

    one, two = (SearchRun(tmp_path / "runs" / name) for name in ("one", "two"))
    assert table(one, seconds=False) == table(two, seconds=False)
    assert reported(one) == reported(two)
    assert len(reported(one)) == 3
    threads = [(row["torch_threads"], row["opencv_threads"]) for row in read_curve(one.trial("0000"))]
    assert threads == [(1, 1)], "a trial keeps to the cores it was given"
