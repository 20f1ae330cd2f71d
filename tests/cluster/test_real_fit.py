"""A real fit on a cluster whose worker node dies in training: its curve is that of an unbroken fit, to the bit."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial

import pytest

from maskcls.training.conditions import NUMBERS
from tests.cluster.conftest import RayCluster
from tests.cluster.machines import wait_until
from tests.conftest import DemoFaces
from tune.fitting.curve import read_curve
from tune.runs.folder import SearchRun

EPOCHS = 12
TRIAL = "0000"


def search(cluster: RayCluster, name: str) -> tuple[SearchRun, subprocess.Popen[str]]:
    """Begin a search of one trial, the preset's, by the command and its address."""
    words = (
        *("--space", "freezing", "--image-size", 32, "--set", "backbone=test_resnet", "--set", "batch_size=8"),
        *("--set", "frozen_stages=0", "--weights", "none", "--epochs", EPOCHS, "--trials", 1, "--finalists", 0),
        *("--parallel", 1, "--cpus-per-trial", 1, "--data", cluster.lan.shared / "faces", "--runs", cluster.runs),
    )
    command = ("python", "-m", "maskcls", "search", *words, "--name", name, "--address", cluster.address)
    return SearchRun(cluster.runs / name), cluster.head.start(*command)


def finish(driver: subprocess.Popen[str]) -> None:
    """Wait for the driver's end, which must be good."""
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 0, out + err


def curve(run: SearchRun) -> list[dict[str, object]]:
    """Return the trial's epochs without times."""
    return [{name: row.get(name) for name in NUMBERS} for row in read_curve(run.trial(TRIAL))]


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_fit_whose_node_dies_has_the_unbroken_curve_with_and_without_its_files(
    alert_cluster: RayCluster, demo_faces: DemoFaces
) -> None:
    cluster = alert_cluster
    shutil.copytree(demo_faces(24, 4), cluster.lan.shared / "faces")
    worker = cluster.join("worker-0")
    whole, driver = search(cluster, "whole")
    finish(driver)
    broken, driver = search(cluster, "broken")
    for number, (epoch, files_are_lost) in enumerate([(3, False), (7, True)], start=1):
        wait_until(partial(has_come_to, broken, epoch), f"epoch {epoch} is done")
        worker.power_off()
        if files_are_lost:
            shutil.rmtree(broken.trial(TRIAL))
        worker = cluster.join(f"worker-{number}")
    finish(driver)
    assert len(curve(whole)) == EPOCHS
    assert curve(broken) == curve(whole)


def has_come_to(run: SearchRun, epoch: int) -> bool:
    """Whether the trial's curve has so many epochs."""
    file = run.trial(TRIAL) / "epochs.jsonl"
    return file.exists() and len(file.read_text().splitlines()) >= epoch
