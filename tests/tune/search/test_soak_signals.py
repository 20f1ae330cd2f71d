"""A search that is interrupted forty times, and one whose workers are killed twenty times, against ones that are not.

`make soak`, or `pytest -m soak tests/tune/search/test_soak_signals.py`. All of them work in the tests' Ray. The moments
are drawn from a seed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests import commands
from tests.commands import start
from tests.tune.search.test_kill import no_worker_left
from tests.tune.search.test_soak_kill import Watch, lines, study_of
from tests.tune.searches import make_plan, new_run, table
from tests.tune.synthetic import Synthetic
from tune.runs.folder import SearchRun
from tune.search.__main__ import main
from tune.search.driver import run_search

TIMES, TRIALS, EPOCHS, SLEEP_S = 10, 60, 8, 0.02
COMMAND = """
import sys
from maskcls.cli import run
from tests.tune import drive
words, sys.argv[1:] = sys.argv[1:], []
def command() -> None:
    sys.argv[1:] = words
    drive.main()
run(command)
"""
"""A driver as a command: errors and signals become messages and exit statuses."""
ENDS = (
    ((signal.SIGINT,), 130, "interrupted"),
    ((signal.SIGTERM,), 143, "interrupted"),
    ((signal.SIGHUP,), 129, "interrupted"),
    ((signal.SIGINT, signal.SIGINT), 130, ""),
)
"""Signals, one after the other; the exit status; what the driver then says of its search."""
KILLS, WORKER_TRIALS, WORKER_EPOCHS = 20, 10, 6


def interrupt(path: Path, address: str, at: int, delay_s: float, how: int) -> None:
    """Let a driver write so many records, wait so long, and send it these signals."""
    numbers, status, said = ENDS[how]
    driver = start("-c", COMMAND, path, TRIALS, SLEEP_S, 1, EPOCHS, address=address)
    wanted, until = lines(path) + at, time.monotonic() + 120
    while lines(path) < wanted:
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < until, "too few records"
        time.sleep(0.003)
    time.sleep(delay_s)
    assert driver.stderr is not None
    driver.send_signal(numbers[0])
    first = ""
    if len(numbers) > 1:  # two at once may arrive as one
        first = next(line for line in driver.stderr if "Stopping" in line)
        driver.send_signal(numbers[1])
    out, err = _rest(driver)
    assert driver.returncode == status, (numbers, driver.returncode, first + err)
    assert out.startswith(said)
    assert "Traceback" not in first + err
    assert no_worker_left("ray::ImplicitFunc", limit_s=60)
    SearchRun(path).mend()  # a reader takes a torn line as the next driver would


def _rest(driver: subprocess.Popen[str]) -> tuple[str, str]:
    assert driver.stdout is not None
    assert driver.stderr is not None
    err, out = driver.stderr.read(), driver.stdout.read()
    driver.wait(timeout=60)
    return out, err


def interrupt_again_and_again(path: Path, address: str, times: int) -> Watch:
    """Each kind of end so many times, in an order and at moments that are drawn; then to the search's end."""
    drawn = np.random.default_rng(np.random.SeedSequence((2, times)))
    watch = Watch(SearchRun.create(path.parent, path.name))
    for how in drawn.permutation(np.repeat(np.arange(len(ENDS)), times)).tolist():
        interrupt(path, address, int(drawn.integers(1, 12)), float(drawn.uniform(0, 0.1)), how)
        watch.look(path.with_name("no rungs"), parallel=1)
    run_search(make_plan(TRIALS, {"epochs": EPOCHS}), watch.run, Synthetic(), plain=True)
    watch.look(path.with_name("no rungs"), parallel=1)
    return watch


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_forty_interruptions_change_nothing(tmp_path: Path, ray_cluster: str) -> None:
    unbroken = new_run(tmp_path, "unbroken")
    run_search(make_plan(TRIALS, {"epochs": EPOCHS}), unbroken, Synthetic(), plain=True)
    watch = interrupt_again_and_again(tmp_path / "one", ray_cluster, TIMES)
    assert list(watch.ended) == [f"{number:04d}" for number in range(TRIALS)]
    assert study_of(watch.run) == study_of(unbroken)
    assert table(watch.run, seconds=False) == table(unbroken, seconds=False)


def kill_workers(run: SearchRun, moments: list[tuple[int, int, float]], killed: list[int]) -> None:
    """Kill the worker that is at work on a trial, at each moment: so long after so many epochs of the trial."""
    for trial, epochs, delay_s in moments:
        curve, until = run.trial(f"{trial:04d}") / "epochs.jsonl", time.monotonic() + 300
        while not curve.exists() or curve.read_bytes().count(b"\n") < epochs:
            if time.monotonic() > until:
                return
            time.sleep(0.003)
        time.sleep(delay_s)
        workers = [one for one in psutil.Process().children(recursive=True) if _is_at_work(one)]
        for worker in workers:
            worker.kill()
        killed.append(len(workers))


def _is_at_work(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::ImplicitFunc")
    except psutil.Error:
        return False


def curves(run: SearchRun) -> dict[str, list[dict[str, Any]]]:
    """Every score and loss of every epoch, by trial; without times, and what is said of stores that others filled."""
    names = ("epoch", "train_loss", "validation_f1", "best_f1", "best_epoch", "scores", "photos")
    return {
        file.parent.name: [{name: json.loads(line)[name] for name in names} for line in file.read_text().splitlines()]
        for file in sorted(run.trials.glob("*/epochs.jsonl"))
    }


def search_real_fits(runs: Path, name: str, words: tuple[str, ...], trials: int) -> SearchRun:
    small = ("--image-size", 32, "--set", "backbone=test_resnet", "--set", "batch_size=32", "--finalists", 0)
    alone = ("--parallel", 1, "--cpus-per-trial", 1, "--scheduler", "none", "--scale", "cpu")
    where = ("--runs", runs, "--name", name, "--trials", trials, "--epochs", WORKER_EPOCHS)
    said = commands.call(main, "--space", "freezing", *words, *small, *alone, *where)
    assert said.status == 0, said.err
    return SearchRun.open(runs / name)


def worker_kills(tmp_path: Path, words: tuple[str, ...], kills: int, trials: int) -> None:
    """Two kills in each of the first trials, as Ray begins a trial again twice; every curve is the same to the bit."""
    like = search_real_fits(tmp_path, "unbroken", words, trials)
    drawn = np.random.default_rng(np.random.SeedSequence(kills))
    moments = []
    for trial in range(-(-kills // 2)):
        first, second = sorted(drawn.choice(np.arange(WORKER_EPOCHS - 2), 2, replace=False).tolist())
        moments += [(trial, first, float(drawn.uniform(0, 0.2))), (trial, second + 1, float(drawn.uniform(0, 0.05)))]
    killed: list[int] = []
    one = SearchRun(tmp_path / "one")
    killer = threading.Thread(target=kill_workers, args=(one, moments[:kills], killed), daemon=True)
    killer.start()
    search_real_fits(tmp_path, "one", words, trials)
    killer.join(5)
    assert sum(killed) == kills, killed
    assert curves(one) == curves(like)
    assert table(one, seconds=False) == table(like, seconds=False)


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(3600)
def test_twenty_killed_workers_change_no_curve(tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    worker_kills(tmp_path, few_faces, KILLS, WORKER_TRIALS)
