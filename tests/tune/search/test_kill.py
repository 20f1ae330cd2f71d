"""Drivers that are killed, interrupted, resumed and extended, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.commands import start
from tests.tune.searches import computed, make_plan, table
from tests.tune.synthetic import Synthetic
from tune.runs.folder import SearchRun
from tune.runs.study import Record, records
from tune.search.driver import run_search
from tune.states import TrialState

ENDED = (TrialState.COMPLETE, TrialState.STOPPED_EARLY)
DRIVE = Path(__file__).parents[1] / "drive.py"


def drive(
    path: Path, trials: int, sleep_s: float, parallel: int = 1, address: str | None = None
) -> subprocess.Popen[str]:
    """A driver with a Ray of its own, or in the one at the address."""
    return start(DRIVE, path, trials, sleep_s, parallel, address=address)


def wait_for(run: Path, what: Callable[[list[Record]], bool], limit_s: float = 120) -> list[Record]:
    """Read the run's study, as any reader may while the driver writes it, until it says what is wanted."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        found = records(SearchRun(run)) if (run / "study.journal").exists() else []
        if what(found):
            return found
        time.sleep(0.2)
    raise AssertionError(f"after {limit_s} s: {[(record.trial_id, record.state, record.epochs) for record in found]}")


def in_the_middle(found: list[Record]) -> bool:
    """Some trials have ended, and another has an epoch behind it."""
    return len([record for record in found if record.state in ENDED]) >= 2 and any(
        r.state == TrialState.UNFINISHED and r.epochs for r in found
    )


def none_left(process: subprocess.Popen[str], of: str = "", limit_s: float = 40) -> bool:
    """Whether all processes of the driver's session whose command begins with `of` are gone within the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if not any(_session(p.pid) == process.pid and _alive(p, of) for p in psutil.process_iter()):
            return True
        time.sleep(0.5)
    return False


def no_worker_left(name: str, limit_s: float = 15) -> bool:
    """Whether all workers of the tests' own Ray whose name begins so are gone within the limit."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if not any(_alive(process, name) for process in psutil.Process().children(recursive=True)):
            return True
        time.sleep(0.5)
    return False


def _alive(process: psutil.Process, of: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()).startswith(of)
    except psutil.Error:
        return False


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(400)
def test_a_killed_search_is_resumed_and_extended(tmp_path: Path) -> None:
    path = tmp_path / "one"
    driver = drive(path, 6, 0.5, parallel=2)
    before = wait_for(path, in_the_middle)
    driver.kill()
    driver.communicate()
    # Ray's agents take a minute to notice; what works on trials must be gone before a resume does.
    assert none_left(driver, "ray::ImplicitFunc", limit_s=15)
    with (path / "study.journal").open("a") as journal:
        journal.write('{"op_code": 8, "worker_id": "torn in the mid')
    Path(f"{path / 'study.journal'}.lock").symlink_to(path / "study.journal")

    kept = {record.trial_id: record for record in before if record.state in ENDED}
    run_search(make_plan(6), SearchRun(path), Synthetic())
    resumed = {record.trial_id: record for record in records(SearchRun(path))}
    assert list(resumed) == [f"{n:04d}" for n in range(6)], "every trial once"
    assert all(record.state in ENDED for record in resumed.values())
    assert {name: resumed[name] for name in kept} == kept, "what had ended is as it was"
    for name in resumed:
        epochs = computed(SearchRun(path), name)
        assert epochs == list(range(1, resumed[name].epochs + 1)), "no epoch was computed twice, none is missing"

    run_search(make_plan(8), SearchRun(path), Synthetic())
    extended = {record.trial_id: record for record in records(SearchRun(path))}
    assert list(extended) == [f"{n:04d}" for n in range(8)]
    assert {name: extended[name] for name in resumed} == resumed
    assert sorted(row["trial"] for row in table(SearchRun(path))) == list(extended)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_ctrl_c_ends_a_search_cleanly_with_what_there_is(tmp_path: Path) -> None:
    """In a Ray of its own; for SIGTERM see tests/tune/search/test_begin_or_resume.py."""
    path = tmp_path / "one"
    driver = drive(path, 50, 0.5)
    wait_for(path, in_the_middle)
    os.killpg(driver.pid, signal.SIGINT)  # a terminal sends it to the whole group, Ray's processes included
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert out.startswith("interrupted 4"), err
    assert "Stopping: what is done is kept. Press Ctrl-C again to abort at once." in err
    assert "Traceback" not in err
    rows = table(SearchRun(path))
    assert [row["trial"] for row in sorted(rows, key=lambda row: row["trial"])] == [
        record.trial_id for record in records(SearchRun(path))
    ]
    assert none_left(driver)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_second_ctrl_c_aborts(tmp_path: Path, ray_cluster: str) -> None:
    path = tmp_path / "one"
    driver = drive(path, 50, 30, address=ray_cluster)
    wait_for(path, lambda found: any(record.state == TrialState.UNFINISHED for record in found))
    driver.send_signal(signal.SIGINT)
    assert driver.stderr is not None
    found = next(line for line in driver.stderr if "Stopping" in line)  # two at once may arrive as one
    driver.send_signal(signal.SIGINT)
    err = found + driver.stderr.read()
    driver.wait(timeout=60)
    assert driver.returncode != 0
    assert "KeyboardInterrupt" in err, (driver.returncode, err)
    assert records(SearchRun(path))[0].epochs == 0, "it did not wait for the epoch that ran"
    assert none_left(driver)
    assert no_worker_left("ray::ImplicitFunc")
