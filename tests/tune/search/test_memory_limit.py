"""Workers that are killed for want of memory, for real: by the kernel in a control group, and by Ray's monitor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskcls.machine import memory_groups
from tests.conftest import ROOT, DemoFaces
from tests.tune.searches import table
from tune.runs.folder import SearchRun
from tune.states import TrialState

LIMIT_BYTES = 4_000 * 2**20
"""The driver, Ray and a worker take about 2.2 GiB before anything is trained."""
pytestmark = pytest.mark.soak


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of LIMIT_BYTES, below that of this process."""
    above = memory_groups()
    if not above or os.geteuid() != 0:
        pytest.skip("only root may make control groups, and there must be some")
    folder = above[0] / f"maskcls-test-{os.getpid()}"
    limit = "memory.max" if (above[0] / "memory.max").exists() else "memory.limit_in_bytes"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield folder
    finally:
        folder.rmdir()


def searched(
    runs: Path, faces: Path, *options: str, group: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """One trial of a search by the real command, in the control group."""
    words = [sys.executable, "-m", "tune.search", "--space", "freezing", "--data", str(faces), "--weights", "none"]
    words += ["--trials", "1", "--finalists", "0", "--epochs", "1", "--parallel", "1", "--runs", str(runs)]
    words += ["--name", "one", "--cache", str(runs / "cache"), *options]

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=900, check=False, preexec_fn=enter
    )


def test_a_worker_that_the_kernel_kills_goes_on_in_smaller_micro_batches(
    group: Path, tmp_path: Path, demo_faces: DemoFaces
) -> None:
    """A batch of all photos keeps about 31 MB of each for the way back."""
    large = (
        "--image-size",
        "224",
        "--set",
        "batch_size=128",
        "--set",
        "backbone=resnet10t",
        "--set",
        "frozen_stages=0",
    )
    done = searched(tmp_path, demo_faces(24, 4), *large, group=group)
    killed = next(line.split()[1] for line in _events(group) if line.startswith("oom_kill "))
    assert int(killed) > 0, "the limit is too high to test anything"
    assert done.returncode == 0, done.stderr
    (row,) = table(SearchRun.open(tmp_path / "one"))
    assert row["state"] == TrialState.COMPLETE
    assert "in micro-batches of" in row["message"]
    assert "Memory may run out" in done.stderr, "it was foreseen"


def _events(group: Path) -> list[str]:
    file = group / "memory.events"
    return (file if file.exists() else group / "memory.oom_control").read_text().splitlines()


def test_a_trial_that_rays_monitor_kills_again_and_again_is_out_of_memory(
    tmp_path: Path, demo_faces: DemoFaces
) -> None:
    done = searched(
        tmp_path,
        demo_faces(24, 4),
        *("--image-size", "64", "--set", "backbone=test_resnet", "--epochs", "2000"),
        RAY_memory_usage_threshold="0.01",
        RAY_memory_monitor_refresh_ms="100",
    )
    assert done.returncode == 1, done.stderr
    (row,) = table(SearchRun.open(tmp_path / "one"))
    assert (row["state"], row["message"].split(",")[0]) == (
        TrialState.OUT_OF_MEMORY,
        "The worker was killed 3 times by Ray",
    )
