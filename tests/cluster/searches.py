"""Searches on the cluster, and what became of them.

The objective is synthetic: a curve that is a function of the recipe, kept in the trial's folder as a fit keeps its
checkpoint. `computed` says which epochs were really computed, and how often.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tests.cluster.machines import wait_until
from tests.tune.searches import computed, reported
from tests.tune.synthetic import f1
from tune.runs.folder import SearchRun

DRIVE = Path(__file__).parents[1] / "tune" / "drive.py"


class Head(Protocol):
    """The machine on which drivers are started."""

    def start(self, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command there; `python` is this one."""


class Cluster(Protocol):
    """What a search is to know of its cluster."""

    @property
    def head(self) -> Head:
        """Where the driver runs."""

    @property
    def address(self) -> str:
        """host:port."""

    @property
    def runs(self) -> Path:
        """A folder that all nodes see."""


class Search:
    """A search of the synthetic space, driven from the cluster's head."""

    def __init__(
        self,
        cluster: Cluster,
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
        out, err = self._driver.communicate(timeout=600)
        return out + err

    def finish(self) -> str:
        """Wait for the driver's end, which must be a complete search, and return what it has said to people."""
        out, err = self._driver.communicate(timeout=600)
        assert out.split()[-2:] == ["finished", "0"], out + err
        return err


def hosts(run: SearchRun) -> set[str]:
    """Return the machines on which any trial was begun."""
    return {line for file in run.trials.glob("*/hosts.txt") for line in file.read_text().split()}


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
