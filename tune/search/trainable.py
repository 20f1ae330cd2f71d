"""One trial: an objective's epochs, told to Ray.

An objective turns a request into epochs. It keeps its state in the trial's own folder, in files written atomically, and finds it
there again: a retry after a worker's or a node's death, a resumed run and a first start are one and the same call. Ray's
checkpoints are not used. Across nodes, the run must lie on a shared file system.

What a trial reports after each epoch: `epoch` (the fidelity), `validation_f1`, `best_f1` (the running best: what Optuna and ASHA
are told), `best_epoch`, `finished` (whether this was the recipe's last epoch), `state`, `seconds`, `photos_per_second`, `message`.
"""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

from maskcls.errors import RunError
from maskcls.files import write_atomically
from tune.fitting import gauges as monitor
from tune.fitting.curve import curve, read_curve
from tune.fitting.failures import exit_if_cuda_is_broken, explain, free_memory, read_end, state_of, write_error
from tune.fitting.request import Objective, TrialRequest
from tune.runs.folder import SearchRun
from tune.states import FIDELITY, METRIC, TrialState


def train(config: dict[str, Any], *, objective: Objective, run: Path, cpus: int, gpus: float) -> None:
    """Ray's side of a trial. `config` holds `trial` (its id) and `recipe` (all keys of a Recipe)."""
    request = TrialRequest(config["trial"], config["recipe"], SearchRun(run).trial(config["trial"]), run, cpus, gpus)
    with monitor.Monitor(
        run=run.name, trial=request.trial_id, backbone=str(request.recipe.get("backbone", ""))
    ) as gauges:
        follow(request, objective, gauges)


def follow(request: TrialRequest, objective: Objective, gauges: monitor.Monitor) -> None:
    """Run the objective to its end, reporting each epoch and, where it ends badly, how.

    An error that leaves the process unfit for another trial ends the process: Ray tries the trial again in a new one, which only
    reports how it ended.
    """
    last: dict[str, Any] = {FIDELITY: 0, METRIC: 0.0, "validation_f1": 0.0, "best_epoch": 0, "seconds": 0.0}
    told = read_end(request.folder)
    if told:
        tell({**last, **(read_curve(request.folder) or [{}])[-1], "finished": False}, TrialState.FAILED, told)
        return
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            request.folder / "recipe.json", json.dumps(request.recipe, indent=2) + "\n", wait=False
        )  # the journal has it
        for last in curve(request, objective):
            gauges.set(last)
            # Ray may end this thread here, by SystemExit, so nothing may be left to do for this epoch.
            tell(last, TrialState.COMPLETE if last["finished"] else TrialState.RUNNING, str(last.get("message", "")))
        if not last.get("finished"):
            raise RunError(f"The objective ended after epoch {last[FIDELITY]} of {request.recipe['epochs']}.")
    except Exception as error:
        state = state_of(error)
        message = explain(error)
        if state != TrialState.DISK_FULL:
            write_error(request.folder, traceback.format_exc())
        exit_if_cuda_is_broken(request.folder, error, state, message)
        free_memory(error)
        tell({**last, "finished": False}, state, message)


def tell(row: dict[str, Any], state: str, message: str = "") -> None:
    """Report an epoch's numbers to Ray, and whether the trial is done with it."""
    import ray.tune

    numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
    ray.tune.report({**numbers, "state": state, "message": message, "done": state != TrialState.RUNNING})
