"""One trial: an objective's epochs, told to Ray.

An objective turns a request into epochs. It keeps its state in the trial's own folder, in files written atomically, and finds it
there again: a retry after a worker's or a node's death, a resumed run and a first start are one and the same call. Ray's
checkpoints are not used. Across nodes, the run must lie on a shared file system.

What a trial reports after each epoch: `epoch` (the fidelity), `validation_f1`, `best_f1` (the running best: what Optuna and ASHA
are told), `best_epoch`, `finished` (whether this was the recipe's last epoch), `state`, `seconds`, `photos_per_second`, `message`.
"""

import errno
import gc
import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcls import memory
from maskcls.errors import RunError
from maskcls.files import append_line, whole_lines, write_atomically
from maskcls.training.recorded import told_of as told_of
from tune import monitor
from tune.run_dir import RunDir

METRIC = "best_f1"
MODE = "max"
FIDELITY = "epoch"

RUNNING = "running"
COMPLETE = "complete"
STOPPED_EARLY = "stopped early"
DIVERGED = "diverged"
OUT_OF_MEMORY = "out of memory"
FAILED = "failed"
DISK_FULL = "disk full"
"""Not an end: the search stops, and a resumed one takes the trial up again."""
UNFINISHED = "unfinished"
"""On a leaderboard: begun, and neither ended nor worked on just now as far as the record tells."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")
# After these, unless memory was short (an illegal access, a device-side assert), the process can do nothing on the GPU any more.
_STICKY_TEXTS = ("CUDA error", "cuDNN error")
ENDED_NOTE = "ended.json"
CURVE = "epochs.jsonl"


class Diverged(RunError):  # noqa: N818 - the name of a state
    """A loss is not finite."""


class OutOfMemory(RunError):  # noqa: N818 - the name of a state
    """The trial does not fit into the memory it was given."""


@dataclass(frozen=True)
class TrialRequest:
    """What an objective is asked for."""

    trial_id: str
    recipe: dict[str, Any]
    folder: Path
    """Where the objective keeps its state and best weights, and finds them when it is resumed."""
    run: Path
    cpus: int
    gpus: float


Objective = Callable[[TrialRequest], Iterator[dict[str, Any]]]
"""Yields a dict of numbers an epoch: `epoch` from 1 on, `validation_f1`, and if known `photos_per_second` and `seconds`; `message` among
them is what is to be told of the trial. Epochs that are done already are yielded again on resume. May raise Diverged or OutOfMemory."""


def train(config: dict[str, Any], *, objective: Objective, run: Path, cpus: int, gpus: float) -> None:
    """Ray's side of a trial. `config` holds `trial` (its id) and `recipe` (all keys of a Recipe)."""
    request = TrialRequest(config["trial"], config["recipe"], RunDir(run).trial(config["trial"]), run, cpus, gpus)
    with monitor.Monitor(run=run.name, trial=request.trial_id, backbone=str(request.recipe.get("backbone", ""))) as gauges:
        follow(request, objective, gauges)


def follow(request: TrialRequest, objective: Objective, gauges: "monitor.Monitor") -> None:
    """Run the objective to its end, reporting each epoch and, where it ends badly, how.

    An error that leaves the process unfit for another trial ends the process: Ray tries the trial again in a new one, which only
    reports how it ended.
    """
    last: dict[str, Any] = {FIDELITY: 0, METRIC: 0.0, "validation_f1": 0.0, "best_epoch": 0, "seconds": 0.0}
    told = read_end(request.folder)
    if told:
        tell({**last, **(read_curve(request.folder) or [{}])[-1], "finished": False}, FAILED, told)
        return
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(request.folder / "recipe.json", json.dumps(request.recipe, indent=2) + "\n", wait=False)  # the journal has it
        for last in curve(request, objective):
            gauges.set(last)
            # Ray may end this thread here, by SystemExit, so nothing may be left to do for this epoch.
            tell(last, COMPLETE if last["finished"] else RUNNING, str(last.get("message", "")))
        if not last.get("finished"):
            raise RunError(f"The objective ended after epoch {last[FIDELITY]} of {request.recipe['epochs']}.")
    except Exception as error:
        state = state_of(error)
        message = explain(error)
        if state != DISK_FULL:
            write_error(request.folder, traceback.format_exc())
        end_if_unfit(request.folder, error, state, message)
        free_memory(error)
        tell({**last, "finished": False}, state, message)


def tell(row: dict[str, Any], state: str, message: str = "") -> None:
    """Report an epoch's numbers to Ray, and whether the trial is done with it."""
    import ray.tune

    numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
    ray.tune.report({**numbers, "state": state, "message": message, "done": state != RUNNING})


def curve(request: TrialRequest, objective: Objective) -> Iterator[dict[str, Any]]:
    """The objective's epochs with the running best, each kept in CURVE before it is yielded. Raises Diverged on a nan."""
    kept = {row[FIDELITY]: row for row in read_curve(request.folder)}
    best, best_epoch, seconds, began = -math.inf, 0, 0.0, time.perf_counter()
    for result in objective(request):
        epoch, f1 = int(result[FIDELITY]), float(result["validation_f1"])
        if not math.isfinite(f1):
            raise Diverged(f"The validation F1 of epoch {epoch} is {f1}.")
        if f1 > best:
            best, best_epoch = f1, epoch
        now = time.perf_counter()
        # An epoch that is yielded again took no time now; what it took stands in the file.
        took = float(result.get("seconds", kept.get(epoch, {}).get("epoch_seconds", now - began)))
        seconds, began = seconds + took, now
        row = {**result, METRIC: best, "best_epoch": best_epoch, "epoch_seconds": took, "seconds": seconds}
        if epoch not in kept or {**kept[epoch], **row} != kept[epoch]:
            _keep_row(request.folder / CURVE, kept, row)
        yield {**row, "finished": epoch >= int(request.recipe["epochs"])}


def _keep_row(file: Path, kept: dict[int, dict[str, Any]], row: dict[str, Any]) -> None:
    """Put a row into the file and into what it holds. Only a row that changed has the file written anew."""
    follows = all(epoch < row[FIDELITY] for epoch in kept)
    kept[row[FIDELITY]] = row
    if follows:
        append_line(file, json.dumps(row))
    else:
        write_atomically(file, "".join(json.dumps(kept[epoch]) + "\n" for epoch in sorted(kept)))


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """A trial's epochs so far, in order; empty where none is done."""
    return [json.loads(line) for line in whole_lines(folder / CURVE)]


def state_of(error: BaseException) -> str:
    """The state that an exception means. By the names of its classes, so that nobody has to import torch to ask."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "Diverged" in names:
        return DIVERGED
    if names & {"OutOfMemory", "OutOfMemoryError", "MemoryError"}:
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_TEXTS):
        return OUT_OF_MEMORY
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, OSError) and cause.errno in _FULL for cause in causes) or "No space left on device" in str(error):
        return DISK_FULL
    return FAILED


def explain(error: BaseException) -> str:
    """One line for tables: our own errors speak for themselves, others need their kind."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RunError) else f"{type(error).__name__}: {text}"


def write_error(folder: Path, text: str) -> None:
    """Keep a traceback beside the trial's curve; a disk that is full must not hide the error itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "error.txt", text)
    except OSError:
        return


def end_if_unfit(folder: Path, error: BaseException, state: str, message: str) -> None:
    """End this process, with a note for the one after it, where it can do nothing on the GPU any more."""
    if state == FAILED and is_unfit(error):
        write_atomically(folder / ENDED_NOTE, json.dumps({"state": state, "message": message}) + "\n")
        os._exit(1)


def is_unfit(error: BaseException) -> bool:
    """Whether, unless memory was short, the process can do nothing on the GPU after this error."""
    return any(text in str(error) for text in _STICKY_TEXTS)


def read_end(folder: Path) -> str:
    """Why a trial's process ended itself, "" where it did not."""
    file = folder / ENDED_NOTE
    return str(json.loads(file.read_text())["message"]) if file.exists() else ""


def free_memory(error: BaseException) -> None:
    """Give back what the failed trial holds: its frames live on in the traceback, its model in the frames, and the actor runs on."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    memory.give_back()
