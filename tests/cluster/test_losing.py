"""Machines of a cluster are lost, join late, are cut off: the search goes on, and no number of it changes.

The objective is synthetic: a curve that is a function of the recipe, kept in the trial's folder as a fit keeps its
checkpoint. `computed` says which epochs were really computed, and how often.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from maskcls.machine import memory_groups
from tests.cluster.conftest import RayCluster, begun
from tests.cluster.machines import wait_until
from tests.tune.searches import computed, reported
from tests.tune.synthetic import f1
from tune.runs.folder import SearchRun
from tune.states import TrialState

DRIVE = Path(__file__).parents[1] / "tune" / "drive.py"
SEED_OF_TIMES = 0
SMALL_BYTES = 1_500 * 2**20


class Search:
    """A search of the synthetic space, driven from the cluster's head."""

    def __init__(
        self,
        cluster: RayCluster,
        name: str,
        *,
        trials: int,
        epochs: int,
        sleep_s: float = 0.0,
        parallel: int = 1,
        ends: Sequence[tuple[str, int, str]] = (),
        gpu_type: str = "",
    ) -> None:
        self.run = SearchRun(cluster.runs / name)
        variables = {"RAY_ADDRESS": cluster.address, "DRIVE_ENDS": json.dumps(ends), "DRIVE_GPU_TYPE": gpu_type}
        words = ("python", DRIVE, self.run.path, trials, sleep_s, parallel, epochs)
        self._driver = cluster.head.start(*words, env=variables)

    def epochs(self, trial_id: str = "0000") -> list[int]:
        """Return the epochs of a trial that were computed up to now."""
        try:
            return computed(self.run, trial_id)
        except FileNotFoundError:
            return []

    def wait_for(self, epoch: int, trial_id: str = "0000") -> None:
        """Wait until a trial has computed an epoch."""

        def has_come_so_far() -> bool:
            assert self._driver.poll() is None, self.said()
            return epoch in self.epochs(trial_id)

        wait_until(has_come_so_far, f"trial {trial_id} has computed epoch {epoch}")

    def said(self) -> str:
        """Wait for the driver's end, and return what it has said."""
        out, err = self._driver.communicate(timeout=300)
        return out + err

    def finish(self) -> None:
        """Wait for the driver's end, which must be a complete search."""
        out, err = self._driver.communicate(timeout=300)
        assert out.split()[-2:] == ["finished", "0"], out + err


@pytest.mark.soak
def test_a_worker_node_that_dies_in_training_costs_one_epoch_at_most(alert_cluster: RayCluster) -> None:
    worker = alert_cluster.join("one")
    search = Search(alert_cluster, "broken", trials=1, epochs=8, sleep_s=0.3)
    search.wait_for(3)
    worker.power_off()
    alert_cluster.join("two")
    search.finish()
    assert is_whole(search, trials=1)
    assert again(search) <= 1
    assert hosts(search.run) == {"one", "two"}


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("kills", "files_are_lost"), [(10, False), (10, True)])
def test_worker_nodes_that_die_ten_times(alert_cluster: RayCluster, kills: int, files_are_lost: bool) -> None:
    """With its files a trial goes on after its last epoch; without them it begins again, with the same numbers."""
    worker, trials, epochs = alert_cluster.join("worker-0"), 3, 30
    whole = Search(alert_cluster, "unbroken", trials=trials, epochs=epochs)
    whole.finish()
    broken = Search(alert_cluster, "broken", trials=trials, epochs=epochs, sleep_s=0.3)
    times = random.Random(SEED_OF_TIMES)
    computed_in_turn = [(trial, epoch) for trial in ids(whole) for epoch in whole.epochs(trial)]
    for number, (trial, epoch) in enumerate(sorted(times.sample(computed_in_turn[:-2], kills)), start=1):
        broken.wait_for(epoch, trial)
        time.sleep(times.uniform(0, 0.3))
        worker.power_off()
        if files_are_lost:
            shutil.rmtree(broken.run.trial(trial))
        worker = alert_cluster.join(f"worker-{number}")
    broken.finish()
    assert reported(broken.run) == reported(whole.run)
    assert again(broken) <= kills, "no kill cost more than the epoch that it fell into"


def hosts(run: SearchRun) -> set[str]:
    """Return the machines on which any trial was begun."""
    return {line for file in run.trials.glob("*/hosts.txt") for line in file.read_text().split()}


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_late_joiner_gets_work_and_one_that_leaves_with_notice_hands_it_on(cluster: RayCluster) -> None:
    """SIGTERM to a node's raylet is what `ray stop` sends there, and what clouds and schedulers send before they take a
    machine away."""
    early = cluster.join("early")
    broken = Search(cluster, "broken", trials=6, epochs=8, sleep_s=1.0, parallel=2)
    broken.wait_for(2)
    cluster.join("late")
    wait_until(lambda: hosts(broken.run) == {"early", "late"}, "the late one has begun a trial")
    for raylet in early.processes("raylet"):
        raylet.terminate()
    broken.finish()
    assert is_whole(broken, trials=6)
    assert again(broken) <= 1


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [5, 30, 120])
def test_a_worker_that_is_cut_off_and_comes_back(cluster: RayCluster, seconds: int) -> None:
    """After 5 s its trial goes on as if nothing had been. After 30 s Ray gives the node up, which then ends itself: a
    new one gets the trial. After 120 s the old one, which sees the run's folder all the time, has ended, too."""
    worker = cluster.join("worker")
    whole = Search(cluster, "unbroken", trials=2, epochs=20)
    whole.finish()
    broken = Search(cluster, "broken", trials=2, epochs=20, sleep_s=0.5)
    broken.wait_for(5)
    worker.cut()
    time.sleep(seconds)
    worker.heal()
    if seconds > 5:
        cluster.join("spare")
    broken.finish()
    assert reported(broken.run) == reported(whole.run)
    assert again(broken) <= 1
    assert hosts(broken.run) == ({"worker"} if seconds == 5 else {"worker", "spare"})


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_head_that_dies_with_its_driver_is_replaced_by_another(cluster: RayCluster) -> None:
    """The same command on the new head goes on with the run, whose folder both see."""
    worker = cluster.join("worker")
    lost = Search(cluster, "broken", trials=2, epochs=20, sleep_s=0.3)
    lost.wait_for(6)
    cluster.head.power_off()
    worker.power_off()
    new = begun(cluster.lan.machine("new-head"), cluster.lan)
    new.join("new-worker")
    whole = Search(new, "unbroken", trials=2, epochs=20)
    whole.finish()
    broken = Search(new, "broken", trials=2, epochs=20, sleep_s=0.3)
    broken.finish()
    assert reported(broken.run) == reported(whole.run)
    assert again(broken) <= 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_two_searches_at_once_leave_each_other_alone(cluster: RayCluster) -> None:
    cluster.join("worker", cpus=2)
    whole = Search(cluster, "unbroken", trials=3, epochs=6)
    whole.finish()
    both = [Search(cluster, name, trials=3, epochs=6, sleep_s=0.2) for name in ("one", "two")]
    for each in both:
        each.finish()
        assert reported(each.run) == reported(whole.run)
        assert again(each) == 0


@pytest.fixture
def small() -> Iterator[Path]:
    """A control group with room for a node of Ray and a worker, and not for one that is hungry."""
    above = memory_groups()
    if not above:
        pytest.skip("there are no control groups for memory")
    group = above[0] / f"maskcls-test-{os.getpid()}"
    limit = "memory.max" if (above[0] / "memory.max").exists() else "memory.limit_in_bytes"
    try:
        group.mkdir()
        (group / limit).write_text(str(SMALL_BYTES))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the small machine's processes have ended")
    group.rmdir()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_memory_that_is_short_on_one_node_fails_no_other_trial(small: Path, cluster: RayCluster) -> None:
    """The trial that takes too much for the one node ends there or on the other one; the search goes on."""
    cluster.join("large")
    cluster.join("small", group=small)
    ends = [(f"{trial:04d}", 3, "hungry") for trial in (1, 2)]
    broken = Search(cluster, "broken", trials=4, epochs=6, sleep_s=0.5, parallel=2, ends=ends)
    broken.finish()
    killed = next(line for line in _events(small) if line.startswith("oom_kill "))
    states = {trial: found["state"] for trial, found in reported(broken.run).items()}
    print(killed, states, hosts(broken.run))
    assert killed != "oom_kill 0", "the small machine was not short of memory"
    assert all(states[trial] not in (TrialState.FAILED, TrialState.OUT_OF_MEMORY) for trial in ("0000", "0003"))
    assert is_whole(broken, trials=4)


def _events(group: Path) -> list[str]:
    file = group / "memory.events"
    return (file if file.exists() else group / "memory.oom_control").read_text().splitlines()


def is_whole(of: Search, trials: int) -> bool:
    """Whether so many trials have the curves that follow from their recipes, each epoch once and in its order.

    With several trials at a time the recipes depend on the order in which trials ended.
    """
    found = reported(of.run)
    return len(found) == trials and all(
        [row["validation_f1"] for row in trial["curve"]]
        == [f1(trial["recipe"], epoch) for epoch in range(1, len(trial["curve"]) + 1)]
        for trial in found.values()
    )


def ids(of: Search) -> list[str]:
    """Return the trials that were begun."""
    return sorted(folder.name for folder in of.run.trials.iterdir())


def again(of: Search) -> int:
    """Count the epochs that were computed more than once."""
    return sum(len(of.epochs(trial)) - len(set(of.epochs(trial))) for trial in ids(of))
