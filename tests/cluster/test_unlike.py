"""Nodes that are unlike: short of memory or of disk, slow, of fewer cores. None of them spoils a search."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskcls.machine import memory_groups
from tests.cluster.conftest import RayCluster
from tests.cluster.machines import wait_until
from tests.cluster.searches import Search, again, hosts, is_whole
from tests.tune.searches import reported
from tune.states import TrialState

SMALL_BYTES = 1_500 * 2**20
HALF_A_CORE = (("cpu.max", "50000 100000"), ("cpu.cfs_quota_us", "50000"))
"""By the file of either version of control groups."""


def control_group(above: Path, limits: tuple[tuple[str, str], ...]) -> Iterator[Path]:
    """A control group of these tests, with the first of these limits that it knows; removed when it is empty."""
    group = above / f"maskcls-test-{os.getpid()}"
    try:
        group.mkdir()
        file, limit = next((group / name, limit) for name, limit in limits if (group / name).exists())
        file.write_text(limit)
    except (OSError, StopIteration) as error:
        pytest.skip(f"no control group can be made here: {error!r}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group's processes have ended")
    group.rmdir()


@pytest.fixture
def small() -> Iterator[Path]:
    """A control group with room for a node of Ray and a worker, and not for one that is hungry."""
    above = memory_groups()
    if not above:
        pytest.skip("there are no control groups for memory")
    yield from control_group(above[0], (("memory.max", str(SMALL_BYTES)), ("memory.limit_in_bytes", str(SMALL_BYTES))))


@pytest.fixture
def slow() -> Iterator[Path]:
    """A control group with half a core."""
    cgroups = Path("/sys/fs/cgroup")
    yield from control_group(cgroups / "cpu" if (cgroups / "cpu").is_dir() else cgroups, HALF_A_CORE)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_memory_that_is_short_on_one_node_fails_no_other_trial(small: Path, cluster: RayCluster) -> None:
    """The trial that takes too much for the one node ends there or on the other one; the search goes on."""
    cluster.join("large")
    cluster.join("small", groups=[small])
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


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_what_rays_monitor_kills_on_another_node_goes_on_with_half(small: Path, cluster: RayCluster) -> None:
    """The node sees its control group as a container does, so that Ray's own monitor ends the worker."""
    early = {"RAY_memory_usage_threshold": "0.8", "RAY_memory_monitor_refresh_ms": "100"}
    cluster.join("small", groups=[small], sees=(small, memory_groups()[-1]), env=early)
    broken = Search(cluster, "broken", trials=2, epochs=4, ends=[("0001", 3, "greedy")])
    broken.finish()
    tried = (broken.run.trial("0001") / "micro-batches.txt").read_text().split()
    print(tried)
    assert tried in (["64", "32"], ["64", "32", "16"])
    assert next(line for line in _events(small) if line.startswith("oom_kill ")) == "oom_kill 0"
    assert is_whole(broken, trials=2)
    assert again(broken) == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("room_bytes", [0, 2**25], ids=["no worker starts there", "a trial finds no room"])
def test_a_node_with_a_full_disk_is_set_aside_and_its_trials_go_elsewhere(cluster: RayCluster, room_bytes: int) -> None:
    full = cluster.join("full", tmp="300m")
    cluster.join("large")
    free = "$(df --output=avail -B1 /tmp | tail -1)"
    full.run("sh", "-c", f"head -c $(( {free} - {room_bytes} )) /dev/zero > /tmp/filler")
    ends = [(f"{trial:04d}", epoch, "scratch") for trial in range(6) for epoch in range(1, 5)]
    broken = Search(cluster, "broken", trials=6, epochs=4, sleep_s=0.5, parallel=2, ends=ends)
    said = broken.finish()
    aside = f"Node {full.address} gets no more trials from this command: 3 in a row failed there by the machine, the"
    assert said.count(aside) == 1, said
    assert ("No space left on device" in said) == bool(room_bytes)
    assert is_whole(broken, trials=6)
    assert again(broken) == 0
    assert len(_begun_on(broken, "full")) <= 4, "one may have been on its way there"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_nodes_of_other_speed_and_cores_do_their_part(slow: Path, cluster: RayCluster) -> None:
    """One has half a core, one two cores."""
    cluster.join("slow", groups=[slow])
    cluster.join("large", cpus=2)
    broken = Search(cluster, "broken", trials=8, epochs=6, sleep_s=1.0, parallel=3)
    broken.wait_for(2)
    status = ("python", "-m", "maskcls", "status", "--address", cluster.address)
    assert cluster.head.run(*status).stdout.startswith("Cluster: 3 nodes alive.")
    broken.finish()
    assert is_whole(broken, trials=8)
    assert again(broken) == 0
    assert hosts(broken.run) == {"slow", "large"}
    ends = {trial["state"] for trial in reported(broken.run).values()}
    assert ends <= {TrialState.COMPLETE, TrialState.STOPPED_EARLY}


def _begun_on(of: Search, host: str) -> list[str]:
    """Return the trials that were begun on a machine, one for each time."""
    files = sorted(of.run.trials.glob("*/hosts.txt"))
    return [file.parent.name for file in files for line in file.read_text().split() if line == host]
