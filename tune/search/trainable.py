"""One trial of a search: a fit in a Ray worker, whose epochs are reported to Ray Tune.

A trial keeps its checkpoint in its own folder, in files that are written whole, and finds it there again: a first
start, a retry after a worker or a node died, and a resumed search are one and the same call. Ray's checkpoints are not
used. On several nodes, the run must lie on a file system that all of them share, or be kept in a storage.

A trial reports after each epoch: `epoch` (the fidelity), `validation_f1`, `best_f1` (the running best, which Optuna and
ASHA are given), `best_epoch`, `finished` (whether this was the recipe's last epoch), `state`, `seconds`,
`photos_per_second`, `message`, `node` (Ray's id of the node).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.tune

from maskcls.storage.store import Store
from tune.fitting.request import Row, TrialRequest, Work
from tune.fitting.stored import run_and_report_stored
from tune.runs.folder import SearchRun
from tune.runs.joined_ray.nodes_aside import node_here
from tune.states import TrialState


def train(config: dict[str, Any], *, work: Work, run: Path, cpus: int, gpus: float, store: Store | None = None) -> None:
    """Run a trial: the function that Ray Tune calls in a worker.

    `config` holds `trial` (its id) and `recipe` (all keys); `store` is the run's place in a storage.
    """
    folder = SearchRun(run).trial(config["trial"])
    request = TrialRequest(config["trial"], config["recipe"], folder, run, cpus, gpus)
    run_and_report_stored(request, work, report, store, drops=True)


def report(row: Row, state: TrialState, message: str = "") -> None:
    """Report an epoch's numbers to Ray, and whether the trial is done with it."""
    numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
    said = {"state": state.value, "message": message, "node": node_here(), "done": state != TrialState.RUNNING}
    ray.tune.report({**numbers, **said})
