"""A search on machines that share nothing but an S3, of which one dies and one comes: what it finds is what it would
have found anyway."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from maskcls.training.conditions import NUMBERS
from tests.cluster.conftest import RayCluster, begun
from tests.cluster.machines import HOME, Lan, wait_until
from tests.conftest import DemoFaces
from tests.s3 import BUCKET, KEYS
from tune.fitting.curve import read_curve
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.study import records

PORT = 5000
FACES, WEIGHTS = "MASKCLS_TEST_FACES", "MASKCLS_TEST_WEIGHTS"
"""Environment variables: a folder of photos in place of drawn faces, and one with the weights of resnet10t."""
TRIALS = 4


class User:
    """A user of the cluster's head, whose runs lie on that machine's own disk, and in the S3."""

    def __init__(self, cluster: RayCluster, faces: Path, weights: str, storage: str) -> None:
        self._cluster = cluster
        self._words = (
            *("--space", "freezing", "--scale", "cpu", "--image-size", 64, "--weights", weights, "--epochs", 2),
            *("--set", f"backbone={'resnet10t' if weights != 'none' else 'test_resnet'}", "--trials", TRIALS),
            *("--parallel", 1, "--cpus-per-trial", 1, "--finalists", 0, "--data", faces, "--ship-data"),
            *("--runs", f"{HOME}/runs", "--storage", storage, "--address", cluster.address),
        )

    def search(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Begin a search."""
        return self._cluster.head.start("python", "-m", "maskcls", "search", *self._words, "--name", name, *words)

    def run(self, name: str) -> SearchRun:
        """Return the run as the head's disk has it."""
        return SearchRun(Path(f"/proc/{self._cluster.head.first}/root{HOME}/runs") / name)


def finish(driver: subprocess.Popen[str]) -> str:
    """Wait for the driver's end, which must be good, and return what it has said."""
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, out + err
    return out + err


def found(run: SearchRun) -> dict[str, tuple[object, ...]]:
    """Each trial's state, parameters and curve, without times."""
    return {
        trial.trial_id: (
            trial.state,
            trial.params,
            [[row.get(name) for name in NUMBERS] for row in read_curve(run.trial(trial.trial_id))],
        )
        for trial in records(run)
    }


def n_reported(run: SearchRun) -> int:
    """Count the epochs that trials have reported."""
    return sum(trial.epochs for trial in records(run)) if run.journal.exists() else 0


def storage_in(lan: Lan) -> str:
    """Switch a machine with an S3 on, and return the address of runs there."""
    server = lan.machine("storage", env=KEYS)
    serving = server.start("python", "-m", "tests.s3", PORT)
    assert serving.stdout is not None
    assert serving.stdout.readline() == "ready\n"
    return f"s3://{BUCKET}/runs?scheme=http&endpoint_override={server.address}:{PORT}"


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_search_against_s3_finds_the_same_with_a_node_lost_and_one_that_comes(
    empty_lan: Lan, demo_faces: DemoFaces
) -> None:
    storage = storage_in(empty_lan)
    cluster = begun(empty_lan.machine("head", env=KEYS), empty_lan)
    workers = [cluster.join("one"), cluster.join("two")]
    faces = Path(os.environ.get(FACES) or shutil.copytree(demo_faces(24, 4), empty_lan.shared / "faces"))
    user = User(cluster, faces, os.environ.get(WEIGHTS, "none"), storage)
    finish(user.search("unbroken"))
    broken = user.search("broken")
    wait_until(partial(has_reported, user.run("broken"), 3), "three epochs are done")
    (at_work,) = [worker for worker in workers if worker.processes("ray::ImplicitFunc")]
    at_work.power_off()
    cluster.join("three")
    finish(broken)
    print({trial: state for trial, (state, *_) in found(user.run("broken")).items()})
    best = [leaderboard.best(records(user.run(name))) for name in ("unbroken", "broken")]
    print(best)
    assert found(user.run("broken")) == found(user.run("unbroken"))
    assert best[0] is not None
    assert best[1] is not None
    assert (best[0].trial_id, best[0].f1) == (best[1].trial_id, best[1].f1)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_driver_that_is_lost_with_its_disk_is_followed_by_another(empty_lan: Lan, demo_faces: DemoFaces) -> None:
    """The head, its driver, all disks and the only worker are gone; the same command goes on from the S3 elsewhere."""
    storage, faces = storage_in(empty_lan), Path(shutil.copytree(demo_faces(24, 4), empty_lan.shared / "faces"))
    lost = begun(empty_lan.machine("head", env=KEYS), empty_lan)
    worker = lost.join("one")
    user = User(lost, faces, "none", storage)
    finish(user.search("unbroken"))
    unbroken = found(user.run("unbroken"))
    user.search("broken", "--begin-or-resume")
    wait_until(partial(has_reported, user.run("broken"), 3), "three epochs are done")
    for machine in (lost.head, worker):
        machine.power_off()

    other = begun(empty_lan.machine("other", env=KEYS), empty_lan)
    other.join("two")
    user = User(other, faces, "none", storage)
    said = finish(user.search("broken", "--begin-or-resume"))
    assert "If that driver is gone, this one takes over in 60 s." in said
    assert "Fetching the run broken from" in said
    assert found(user.run("broken")) == unbroken


def has_reported(run: SearchRun, epochs: int) -> bool:
    """Whether the run's trials have reported so many epochs."""
    return n_reported(run) >= epochs
