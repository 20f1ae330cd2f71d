"""Workers outlive their trials, also where a trial is shorter than a worker's start."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError, RayActorError

from tests.tune.searches import make_plan, new_run
from tune.fitting.curve import read_curve
from tune.fitting.request import FitRequest
from tune.runs.folder import SearchRun
from tune.search.actors import deaths_for_memory
from tune.search.driver import run_search


class SlowToStart:
    """An objective that tells its process; every process but the first that loads it takes seconds to do so."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.driver = folder, os.getpid()

    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, Any]:
        for epoch in range(1, int(request.recipe["epochs"]) + 1):
            time.sleep(0.02)
            yield {"epoch": epoch, "validation_f1": 0.5, "process": os.getpid()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if os.getpid() == self.driver:
            return
        try:
            (self.folder / "first").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(3)


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_do_all_of_many_short_trials(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run_search(make_plan(40, parallel=2), run, SlowToStart(tmp_path))
    by_process = processes(run)
    assert len(by_process) == 2, f"workers were ended and started again: {by_process}"
    assert sum(by_process.values()) == 40


def processes(run: SearchRun) -> dict[int, int]:
    """How many trials each process did."""
    did = [read_curve(folder)[0]["process"] for folder in run.path.glob("trials/*")]
    return {process: did.count(process) for process in did}


class Alone(RayActorManager):  # type: ignore[misc]
    """Ray's manager of workers, without any."""

    def __init__(self) -> None:
        self._failed_actor_ids: set[int] = set()

    def _cleanup_actor(self, tracked_actor: TrackedActor) -> None:
        """There is nothing to clean up."""


def test_a_worker_that_rays_monitor_killed_in_its_work_is_one_that_died() -> None:
    """Else its error would end the search. Ray's text stays, by which it is known why."""
    said: list[Exception] = []
    actor = TrackedActor(1, on_error=lambda actor, error: said.append(error))
    with deaths_for_memory():
        Alone()._actor_task_failed(TrackedActorTask(actor), OutOfMemoryError("the node is running low on memory"))
    assert [type(error) for error in said] == [RayActorError]
    assert "running low on memory" in str(said[0])
