"""A driver in a process of its own, for tests that kill or interrupt it.

python drive.py RUN TRIALS SLEEP_S PARALLEL [EPOCHS [RUNGS]]; RUNGS is a file that gets a line each time that the
scheduler's rungs change. It starts a Ray of its own, or joins the one at RAY_ADDRESS. DRIVE_ENDS is the objective's
`ends`, as JSON. With DRIVE_GPU_TYPE a trial has half a GPU of that type.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)


def main() -> None:
    from tests.tune.searches import make_plan
    from tests.tune.synthetic import Synthetic
    from tune.runs import cluster
    from tune.runs.folder import SearchRun
    from tune.runs.joined_ray import gpu_types
    from tune.search.driver import run_search

    path, trials, sleep_s, parallel = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    ends = tuple((trial, int(epoch), how) for trial, epoch, how in json.loads(os.environ.get("DRIVE_ENDS", "[]")))
    epochs = {"epochs": int(sys.argv[5])} if len(sys.argv) > 5 else {}
    if len(sys.argv) > 6:
        log_rungs(Path(sys.argv[6]))
    run = SearchRun.open(path) if path.exists() else SearchRun.create(path.parent, path.name)
    gpu_type = os.environ.get("DRIVE_GPU_TYPE", "")
    with cluster.connected(os.environ.get("RAY_ADDRESS")):
        gpu_types.run_on(gpu_type)
        plan = make_plan(trials, epochs, parallel=parallel, gpus=0.5 if gpu_type else 0.0)
        outcome = run_search(plan, run, Synthetic(sleep_s, ends))
    print(outcome.reason, outcome.remaining)
    sys.exit(outcome.exit_status)


def log_rungs(file: Path) -> None:
    """Let every EpochASHA of this process write its rungs, {epoch: {trial: value}}, when they were given back and after
    each result."""
    from tests.tune.rungs import recorded
    from tune.search.schedulers import EpochASHA

    ids: dict[str, str] = {}

    def write(scheduler: EpochASHA) -> None:
        rungs = {
            int(epoch): {ids.get(ray_id, ray_id): value for ray_id, value in values.items()}
            for epoch, values in recorded(scheduler)
        }
        with file.open("a") as log:
            log.write(json.dumps(rungs, sort_keys=True) + "\n")

    def then_write(method: str) -> None:
        inherited = getattr(EpochASHA, method)

        def called(scheduler: EpochASHA, *arguments: Any) -> Any:
            answer = inherited(scheduler, *arguments)
            write(scheduler)
            return answer

        setattr(EpochASHA, method, called)

    added = EpochASHA.on_trial_add

    def on_trial_add(scheduler: EpochASHA, controller: Any, trial: Any) -> None:
        ids[trial.trial_id] = trial.config["trial"]
        added(scheduler, controller, trial)

    setattr(EpochASHA, added.__name__, on_trial_add)
    for method in ("replay", "on_trial_result", "on_trial_complete"):
        then_write(method)


if __name__ == "__main__":
    main()
