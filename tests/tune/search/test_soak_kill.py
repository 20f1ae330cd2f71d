"""A search whose driver is killed and resumed twenty times, at random moments, against an uninterrupted one.

`make soak`, or `pytest -m soak tests/tune/test_soak_kill.py`. The moments are drawn from a seed: five of them while the
driver starts, fifteen by how much it has written into the journal, and a random time after that, so that they fall
between any two steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.tune.search.test_kill import DRIVE, _session, none_left
from tests.tune.searches import computed, table
from tune.runs.folder import SearchRun
from tune.runs.study import Record, open_study, records
from tune.states import TrialState

TRIALS, EPOCHS, SLEEP_S = 60, 8, 0.02
KILLS, KILLS_AT_START = 20, 5
LIMIT_S = 240

Rungs = dict[str, dict[str, float]]


def drive(path: Path, parallel: int, rungs: Path) -> subprocess.Popen[str]:
    """A driver at the head of its own session."""
    words = [DRIVE, path, TRIALS, SLEEP_S, parallel, EPOCHS, rungs]
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def finish(path: Path, parallel: int, rungs: Path) -> SearchRun:
    driver = drive(path, parallel, rungs)
    out, _ = driver.communicate(timeout=300)
    assert out.split() == ["finished", "0"]
    return SearchRun(path)


@dataclass
class Unbroken:
    """The search that nobody kills."""

    run: SearchRun
    start_s: float
    """How long its driver took until its first trial had ended."""
    rungs: Rungs
    records: int
    """Of its journal."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    folder = tmp_path_factory.mktemp("unbroken")
    log, began = folder / "rungs.jsonl", time.time()
    run = finish(folder / "one", 1, log)
    start_s = (run.trial("0000") / "computed.txt").stat().st_mtime - began
    return Unbroken(run, start_s, read_rungs(log)[-1], lines(run.path))


def lines(run: Path) -> int:
    """How many records the journal has."""
    journal = run / "study.journal"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


@dataclass
class Moment:
    """When to kill: as soon as the driver has written so many records, and so long after that; with 0, so long after it
    was started, or with its first record."""

    records: int
    delay_s: float


def moments(like: Unbroken, seed: int) -> list[Moment]:
    """Twenty of them, over seven tenths of such a search, for a driver works on until its kill comes through."""
    drawn = np.random.default_rng(np.random.SeedSequence((seed, KILLS)))
    shares = drawn.dirichlet(np.full(KILLS - KILLS_AT_START, 2.0))
    found = [Moment(max(1, int(0.7 * like.records * share)), float(drawn.uniform(0, 0.1))) for share in shares]
    found += [Moment(0, float(drawn.uniform(0, like.start_s))) for _ in range(KILLS_AT_START)]
    return [found[at] for at in drawn.permutation(KILLS)]


def kill_at(moment: Moment, driver: subprocess.Popen[str], path: Path) -> None:
    """Kill -9, and wait until nothing works on the run's trials any more."""
    began, wanted = time.monotonic(), lines(path) + max(1, moment.records)
    at_start = moment.records == 0
    while lines(path) < wanted and not (at_start and time.monotonic() > began + moment.delay_s):
        assert time.monotonic() < began + LIMIT_S, f"{lines(path)} records after {LIMIT_S} s, {wanted} are waited for"
        assert driver.poll() is None, "the driver ended before its moment came"
        time.sleep(0.003)
    if not at_start:
        time.sleep(moment.delay_s)
    assert driver.poll() is None, "the driver ended before its moment came"
    driver.kill()
    driver.communicate()
    assert none_left(driver, "ray::ImplicitFunc", limit_s=30)
    for process in psutil.process_iter():  # what is left of its Ray would end by itself, but twenty of them are many
        with suppress(psutil.NoSuchProcess):
            if _session(process.pid) == driver.pid:
                process.kill()


@dataclass
class Watch:
    """What must hold from one kill to the next."""

    run: SearchRun
    ended: dict[str, Record] = field(default_factory=dict)
    rungs: Rungs = field(default_factory=dict)
    """Of the last driver that had any, as it was killed."""
    reported: dict[str, dict[int, float]] = field(default_factory=dict)
    """What the journal had then: by trial, by epoch."""
    cut_short: set[tuple[str, int]] = field(default_factory=set)
    """Epochs that were computed, and not kept yet, as their worker was killed: these alone are computed again."""
    epochs: dict[str, list[int]] = field(default_factory=dict)
    compared: int = 0

    def look(self, log: Path, parallel: int) -> None:
        """After a kill."""
        found = {record.trial_id: record for record in records(self.run)}
        assert list(found) == [f"{number:04d}" for number in range(len(found))], "none lost, none twice"
        assert {name: found[name] for name in self.ended} == self.ended, "what had ended is as it was"
        self.ended = {name: record for name, record in found.items() if record.state != TrialState.UNFINISHED}
        assert len(found) - len(self.ended) <= parallel
        seen = read_rungs(log)
        if seen:
            self.check_begin(seen[0])
            self.rungs = seen[-1]
        self.reported = {name: values for name, (_, values, _, _) in study_of(self.run).items()}
        self.check_epochs(found)

    def check_begin(self, begins: Rungs) -> None:
        """A driver that just started has the killed one's rungs, but for a result that never reached its journal."""
        for rung, given_back in begins.items():
            record = {name: values[int(rung)] for name, values in self.reported.items() if int(rung) in values}
            had = self.rungs.get(rung, {})
            noted = {
                name: value for name, value in had.items() if name in given_back
            }  # an end on record, whose epoch was not yet
            assert given_back == {**record, **noted}
            assert all(int(rung) not in self.reported.get(name, {}) for name in had.keys() - given_back.keys()), (
                "the rungs forgot"
            )
        assert sum(len(had.keys() - begins[rung].keys()) for rung, had in self.rungs.items()) <= 1, (
            "a driver takes one result at a time"
        )
        self.compared += bool(self.rungs)

    def check_epochs(self, found: dict[str, Record]) -> None:
        for name in found:
            if not (self.run.trial(name) / "computed.txt").exists():
                continue
            log, kept = computed(self.run, name), json.loads(read(self.run.trial(name) / "synthetic.json") or "[]")
            again = [epoch for at, epoch in enumerate(log) if epoch in log[:at]]
            assert all((name, epoch) in self.cut_short for epoch in again), f"{name} computed {again} again"
            assert sorted(set(log)) == list(range(1, len(set(log)) + 1)), "no epoch is missing"
            self.cut_short |= {(name, epoch) for epoch in log if epoch > len(kept)}
            self.epochs[name] = log


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def read_rungs(log: Path) -> list[Rungs]:
    """What a driver's scheduler knew, from its begin on; without a last line that the kill cut."""
    text = read(log)
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def study_of(run: SearchRun) -> dict[str, tuple[str, dict[int, float], dict[str, Any], dict[str, Any]]]:
    """Of each trial that was begun: how it ended, what it reported, its parameters, its recipe. Without times."""
    trials = {f"{trial.number:04d}": trial for trial in open_study(run).get_trials(deepcopy=False)}
    return {
        record.trial_id: (record.state, trials[record.trial_id].intermediate_values, record.params, record.recipe)
        for record in records(run)
    }


def kill_twenty_times(path: Path, parallel: int, like: Unbroken) -> Watch:
    watch = Watch(SearchRun.create(path.parent, path.name))
    for number, moment in enumerate(moments(like, seed=parallel)):
        log = path.with_name(f"rungs-{number}.jsonl")
        driver = drive(path, parallel, log)
        kill_at(moment, driver, path)
        if (path / "study.journal").exists():
            SearchRun(path).mend()  # a reader takes a torn line as the driver would
            watch.look(log, parallel)
    assert len(watch.ended) < TRIALS
    log = path.with_name("rungs-last.jsonl")
    finish(path, parallel, log)
    watch.look(log, parallel)
    assert list(watch.ended) == [f"{number:04d}" for number in range(TRIALS)]
    assert {record.state for record in watch.ended.values()} == {TrialState.COMPLETE, TrialState.STOPPED_EARLY}, (
        "the scheduler had its say"
    )
    assert watch.compared >= KILLS // 2, "rungs were compared"
    for name, record in watch.ended.items():
        assert set(watch.epochs[name]) >= set(range(1, record.epochs + 1))
    print(
        f"parallel {parallel}: {watch.compared} of {KILLS} resumes began with rungs to compare, "
        f"{len(watch.cut_short)} epochs cut short"
    )
    return watch


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_one_at_a_time_it_is_the_unbroken_search(tmp_path: Path, unbroken: Unbroken) -> None:
    watch = kill_twenty_times(tmp_path / "one", 1, unbroken)
    assert table(watch.run, seconds=False) == table(unbroken.run, seconds=False)
    assert study_of(watch.run) == study_of(unbroken.run)
    assert watch.rungs == unbroken.rungs


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_two_at_a_time_nothing_is_forgotten(tmp_path: Path, unbroken: Unbroken) -> None:
    kill_twenty_times(tmp_path / "one", 2, unbroken)
