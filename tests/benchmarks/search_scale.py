"""How many results a second the driver of a search takes from many trials at a time, and what that costs it.

    python -m tests.benchmarks.search_scale AT_A_TIME RESULTS

measures in its own process, with a Ray of its own that is made to believe in as many cores, and prints JSON. The trials
cost nothing. Each waits before its first epoch until all are there, then reports its epochs as fast as they are taken,
and no other trial follows, so that the time of suggestions and of workers that start is left out. `tests.benchmarks.
search_growth` measures suggestions. Measured are the seconds from the first result to the last, the driver's own
processor time in between, and its memory and that of a worker at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ray.tune import Callback

import search_spaces
from maskcls.training.presets import preset
from tests.benchmarks.report import ROOT
from tune.runs import cluster
from tune.runs.folder import SearchRun
from tune.search.driver import drive
from tune.search.plan import SearchPlan

SPACE = "freezing"
FEWEST_EPOCHS = 20
STORE_BYTES = 100_000_000
_POLL_S = 0.2
_GENTLY = {"RAY_prestart_worker_first_driver": "0", "RAY_maximum_startup_concurrency": "2"}
"""Workers start two at a time. Ray would start as many as there are cores, which here are fewer than it believes."""
_WORKER = "ray::ImplicitFunc"


@dataclass(frozen=True)
class AllAtOnce:
    """An objective that costs nothing, and whose trials begin together.

    Args:
        meeting: a folder into which each trial puts a file.
    """

    meeting: Path
    at_a_time: int

    def __call__(self, request: Any) -> Generator[dict[str, Any], None, Any]:
        """Report one row per epoch."""
        (self.meeting / request.trial_id).touch()
        while len(os.listdir(self.meeting)) < self.at_a_time:  # noqa: PTH208 - names suffice
            time.sleep(_POLL_S)
        for epoch in range(1, int(request.recipe["epochs"]) + 1):
            yield {"epoch": epoch, "validation_f1": 0.5}


@dataclass
class Meter(Callback):  # type: ignore[misc]
    """When results came, and how much processor time the driver had used by then."""

    results: list[tuple[float, float]] = field(default_factory=list)
    """Seconds of the clock and of the processor, one pair for each result."""
    worker_mb: list[float] = field(default_factory=list)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Note the times."""
        self.results.append((time.perf_counter(), time.process_time()))
        if len(self.results) == 1:
            self.worker_mb = worker_mb()


def worker_mb() -> list[float]:
    """The private memory of this process's Ray workers, MB each: what another one would take as well."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if (process.cmdline() or [""])[0].startswith(_WORKER):
                found.append(process.memory_full_info().uss / 1e6)
    return found


def measure(at_a_time: int, results: int) -> dict[str, Any]:
    """Run a search of that many trials, all at a time.

    Args:
        results: that are taken at least.
    """
    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    os.environ.update(_GENTLY)
    cluster.quiet()
    epochs = max(FEWEST_EPOCHS, -(-results // at_a_time))
    base = preset("contest-2021", "cpu").override({"epochs": epochs})
    plan = SearchPlan(
        search_spaces.get(SPACE),
        search_spaces.Setting("cpu"),
        base,
        {"epochs": epochs},
        at_a_time,
        sampler="random",
        scheduler="none",
        parallel=at_a_time,
    )
    meter, began = Meter(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            address="local",
            num_cpus=at_a_time,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            logging_level="ERROR",
            log_to_driver=False,
        )
        run, meeting = SearchRun.create(Path(folder), "one"), Path(folder) / "meeting"
        meeting.mkdir()
        try:
            with contextlib.redirect_stderr(io.StringIO()), run.driving():
                drive(plan, run, AllAtOnce(meeting, at_a_time), plain=True, callbacks=[meter])
        finally:
            ray.shutdown()
    memory = psutil.Process().memory_full_info()
    return {**_figures(meter), "trials": at_a_time, "seconds_in_all": time.perf_counter() - began} | {
        "driver_rss_mb": memory.rss / 1e6,
        "worker_mb": statistics.median(meter.worker_mb or [0.0]),
        "workers_mb": sum(meter.worker_mb),
    }


def _figures(meter: Meter) -> dict[str, float]:
    (first, first_cpu), (last, last_cpu) = meter.results[0], meter.results[-1]
    taken = len(meter.results) - 1
    return {
        "results": len(meter.results),
        "results_per_second": taken / (last - first),
        "driver_ms_per_result": 1e3 * (last_cpu - first_cpu) / taken,
        "driver_cores": (last_cpu - first_cpu) / (last - first),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
