"""The same seed gives the same study in a fresh process, a trial's curve comes again to the bit, and a kill between any
two records of the journal changes nothing of what follows.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from maskcls.training.conditions import segments
from tests.commands import start
from tests.tune.search.test_kill import DRIVE, none_left, wait_for
from tests.tune.searches import make_plan, new_run, reported, table
from tests.tune.synthetic import Synthetic
from tune.fitting.curve import read_curve
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.search.driver import run_search
from tune.states import TrialState

SMALL = ["--space", "freezing", "--scale", "cpu", "--image-size", "32", "--weights", "none", "--cpus-per-trial", "1"]
SMALL += ["--set", "backbone=mobilenetv3_small_050", "--set", "batch_size=128", "--finalists", "0"]
TRIALS, EPOCHS = 10, 6


def finished(process: subprocess.Popen[str]) -> str:
    try:
        out, err = process.communicate(timeout=500)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> SearchRun:
    run = new_run(tmp_path_factory.mktemp("unbroken"))
    run_search(make_plan(TRIALS, {"epochs": EPOCHS}), run, Synthetic(), plain=True)
    return run


@pytest.mark.soak
def test_the_same_seed_gives_the_same_study_in_a_fresh_process(
    unbroken: SearchRun, tmp_path: Path, ray_cluster: str
) -> None:
    """So do real fits: tests/tune/search/test_session.py."""
    finished(start(DRIVE, tmp_path / "two", TRIALS, 0, 1, EPOCHS, address=ray_cluster))
    one, two = (reported(run) for run in (unbroken, SearchRun(tmp_path / "two")))
    assert len(one) == TRIALS
    assert {trial["state"] for trial in one.values()} == {TrialState.COMPLETE, TrialState.STOPPED_EARLY}
    assert one == two
    assert table(unbroken, seconds=False) == table(SearchRun(tmp_path / "two"), seconds=False)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_trial_is_trained_again_to_the_bit(tmp_path: Path, demo_cache: Path) -> None:
    """Trials that ran beside others, one of them killed with the driver and resumed, each again alone in a process."""
    path = tmp_path / "runs" / "first"
    where: list[str | Path] = ["--runs", tmp_path / "runs", "--cache", demo_cache, "--parallel", "2"]
    search = ("-m", "tune.search")
    driver = start(*search, *SMALL, "--name", "first", "--trials", "3", "--epochs", "4", *where)
    at_kill = wait_for(
        path, lambda now: any(trial.state == TrialState.UNFINISHED and trial.epochs for trial in now), 240
    )
    driver.kill()
    driver.communicate()
    assert none_left(driver, "ray::ImplicitFunc", limit_s=40)
    alive = {trial.trial_id for trial in at_kill if trial.state == TrialState.UNFINISHED}
    finished(start(*search, "--resume", path, *where))

    run = SearchRun(path)
    assert [record.state in (TrialState.COMPLETE, TrialState.STOPPED_EARLY) for record in records(run)] == [True] * 3
    for record in records(run):
        (segment,) = segments(run.trial(record.trial_id))
        assert (segment.from_epoch, segment.conditions.threads, segment.conditions.device) == (1, 1, "cpu")
    for trial_id in sorted(alive) or ["0000"]:
        recorded = read_curve(run.trial(trial_id))
        words = ("--trial", path / trial_id, "--out", tmp_path / trial_id, "--cache", demo_cache)
        said = finished(start("-m", "maskcls.train", *words))
        assert said.count("equal to the recorded epoch") == len(recorded) > 0
        assert (
            f"{len(recorded)} of {len(recorded)} recorded epochs of trial {trial_id} of first are equal to the bit"
            in said
        )
        scores = json.loads((tmp_path / trial_id / "bundle.json").read_text())["scores"]
        assert scores["validation"]["f1"] >= max(row["validation_f1"] for row in recorded)


def journal(run: SearchRun) -> list[bytes]:
    return run.journal.read_bytes().splitlines(keepends=True)


def goes_on_as_unbroken(run: SearchRun, cut: int, folder: Path) -> bool:
    """Whether a driver over the first `cut` records of the run's journal comes to the same end.

    The trials' folders are whole: workers may be ahead of the record.
    """
    broken = new_run(folder, f"cut-{cut}")
    shutil.copytree(run.trials, broken.trials, dirs_exist_ok=True)
    broken.journal.write_bytes(b"".join(journal(run)[:cut]))
    run_search(make_plan(TRIALS, {"epochs": EPOCHS}), broken, Synthetic(), plain=True)
    return reported(broken) == reported(run) and table(broken, seconds=False) == table(run, seconds=False)


def records_of(run: SearchRun, number: int) -> list[int]:
    """Places in the journal after which the driver was at work on this trial of a search of one at a time."""
    lines = [json.loads(line) for line in journal(run)]
    own = [at for at, line in enumerate(lines) if line.get("trial_id") == number and line["op_code"] != 4]
    return list(range(own[0], own[-1] + 2))


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_kill_within_a_trial_changes_nothing(unbroken: SearchRun, tmp_path: Path) -> None:
    """Of one that is drawn at random, for random draws depend on those before them, and that the scheduler stops: after
    its first, a middle and its last record. The long test below tries all."""
    state = {record.trial_id: record.state for record in records(unbroken)}
    number = next(n for n in range(2, 10) if state[f"{n:04d}"] == TrialState.STOPPED_EARLY)
    cuts = [cut for cut in records_of(unbroken, number) if cut < len(journal(unbroken))]
    assert len(cuts) >= 8
    some = (cuts[0], cuts[len(cuts) // 2], cuts[-1])
    assert [cut for cut in some if not goes_on_as_unbroken(unbroken, cut, tmp_path)] == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_kill_after_any_record_changes_nothing(unbroken: SearchRun, tmp_path: Path) -> None:
    cuts = range(1, len(journal(unbroken)))
    assert [cut for cut in cuts if not goes_on_as_unbroken(unbroken, cut, tmp_path)] == []
