"""Many fits on Ray, each to its end, resumable: the same list again reads what is done and goes on with the rest.

    fits/<id>/    recipe.json, epochs.jsonl (the curve), state/ (what the work needs to go on; taken away when it is done),
                  error.txt of an error, and result.json, written last: it says that the fit is done

Diverged is a result. Out of memory and an error in code are none: they are told, the other fits go on, and a resume tries them again,
for it may give each fit more memory. Out of memory leaves a result.json that says so, and the state to go on from.
A result that does not do any more (`is_done`) stays until the one that replaces it is there.
On a cluster of several nodes the folders must lie on a file system that all of them share.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskcls.errors import RunError
from maskcls.files import write_atomically
from tune.fitting import gauges as monitor
from tune.fitting.curve import curve, read_curve
from tune.fitting.failures import (
    ENDED_NOTE,
    exit_if_cuda_is_broken,
    explain,
    free_memory,
    read_end,
    state_of,
    write_error,
)
from tune.fitting.progress import FitProgress
from tune.fitting.request import TrialRequest
from tune.runs import cluster
from tune.runs.stopping import Outcome, Reason, stoppable
from tune.states import FIDELITY, METRIC, TrialState

RESULT, ERROR, STATE = "result.json", "error.txt", "state"
MAX_RETRIES = 2
"""After a worker's or a node's death; an error in code is not retried."""
_LOOK_S = 0.5
_HOPELESS = 3
"""Different recipes that all failed, where nothing was learnt: the fault is not in a recipe."""
_CANCEL_S = 15
_NOTHING = {FIDELITY: 0, METRIC: None, "best_epoch": 0, "seconds": 0.0}
"""The curve of a fit that has no epoch."""


@dataclass(frozen=True)
class FitRequest(TrialRequest):
    """One fit. `trial_id` is its id, `recipe` all keys of a Recipe, `folder` its own."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the work has to know beside the recipe; ready for JSON, for it stands in the result."""
    label: str = ""
    """For people who watch."""

    @property
    def state_folder(self) -> Path:
        """Where the work keeps what it needs to go on."""
        return self.folder / STATE


Work = Callable[[FitRequest], Generator[dict[str, Any], None, dict[str, Any]]]
"""Yields a dict of numbers an epoch, as `tune.search.trainable.Objective` does, those that are done already again. Returns what the result
is to hold beside state, epochs and time, ready for JSON; `message` among it is told. Larger things it has written into the fit's
folder. May raise Diverged or OutOfMemory."""


@dataclass(frozen=True)
class FitOutcome:
    """How a fit ended: complete, diverged, out of memory, failed, or disk full."""

    state: str
    message: str = ""


def has_ended(request: FitRequest, result: Mapping[str, Any]) -> bool:
    """Whether this result.json says that nothing is left to do: not where memory was short."""
    return bool(result["state"] != TrialState.OUT_OF_MEMORY)


IsDone = Callable[[FitRequest, Mapping[str, Any]], bool]


def to_do(requests: Sequence[FitRequest], is_done: IsDone = has_ended) -> list[FitRequest]:
    """The fits, each once and in their order, that have no result which is done."""

    def done(request: FitRequest) -> bool:
        result = read_result(request.folder)
        return result is not None and is_done(request, result)

    return [request for request in {request.trial_id: request for request in requests}.values() if not done(request)]


def run_fits(
    requests: Sequence[FitRequest],
    work: Work,
    *,
    parallel: int,
    budget_s: float | None = None,
    plain: bool | None = None,
    on_end: Callable[[FitRequest, FitOutcome], None] | None = None,
    is_done: IsDone = has_ended,
) -> Outcome:
    """Run the fits that are to do, in their order. Ray must be connected (`cluster.connected`), the folders held by the caller.

    The first SIGINT or SIGTERM ends it cleanly, a second one aborts. Fits that failed or ran out of memory count as left.

    Args:
        parallel: how many run at a time.
        budget_s: no more work after that many seconds; None: no bound.
        plain: progress as lines instead of a picture; None: as the terminal can.
        on_end: told of each fit that ends.
        is_done: which results are what is wanted; a fit with another one is done again.

    Raises:
        RunError: the disk is full, or fits of different recipes failed and nothing was learnt.
        KeyboardInterrupt: a second signal.
    """
    cluster.quiet()
    wanted = list({request.trial_id: request for request in requests}.values())
    waiting = to_do(wanted, is_done)
    if not waiting:
        return Outcome(Reason.FINISHED, 0)
    asked = threading.Event()
    with FitProgress(len(wanted), len(wanted) - len(waiting), plain) as progress, stoppable(asked, progress.say):
        driver = _Driver(work, parallel, progress, on_end, wanted)
        reason = driver.run(waiting, asked, None if budget_s is None else time.monotonic() + budget_s)
    left = len(to_do(wanted, is_done))
    return Outcome(reason if left > driver.failed else Reason.FINISHED, left)


def read_result(folder: Path) -> dict[str, Any] | None:
    """What a fit's result.json holds; None where there is none."""
    try:
        content: dict[str, Any] = json.loads((folder / RESULT).read_text())
    except FileNotFoundError:
        return None
    return content


def work_on(request: FitRequest, work: Work) -> FitOutcome:
    """Ray's side of a fit: the work to its end, and its result written.

    An error that leaves the process unfit for another fit ends the process: Ray tries again in a new one, which only tells.
    """
    told = read_end(request.folder)
    if told:
        (request.folder / ENDED_NOTE).unlink()
        return FitOutcome(TrialState.FAILED, told)
    last: Mapping[str, Any] = _NOTHING
    values: dict[str, Any] = {}

    def objective(_: TrialRequest) -> Generator[dict[str, Any], None, None]:
        values.update((yield from work(request)))

    ended = FitOutcome(TrialState.COMPLETE)
    try:
        request.folder.mkdir(parents=True, exist_ok=True)
        for litter in request.folder.glob(".*.tmp"):  # of a worker that was killed while it wrote
            litter.unlink(missing_ok=True)
        write_atomically(request.folder / "recipe.json", json.dumps(request.recipe, indent=2) + "\n")
        with monitor.Monitor(request.run.name, request.trial_id, str(request.recipe.get("backbone", ""))) as gauges:
            for last in curve(request, objective):
                gauges.set(last)
        if not last.get("finished"):
            raise RunError(f"The work ended after epoch {last[FIDELITY]} of {request.recipe['epochs']}.")
        ended = FitOutcome(TrialState.COMPLETE, str(values.get("message", "")))
    except Exception as error:
        ended = FitOutcome(state_of(error), explain(error))
        if ended.state != TrialState.DISK_FULL:
            write_error(request.folder, traceback.format_exc())
        exit_if_cuda_is_broken(request.folder, error, ended.state, ended.message)
        free_memory(error)
        if ended.state in (TrialState.DISK_FULL, TrialState.FAILED):
            return ended
    _write_result(request, ended, last, values)
    return ended


def _write_result(request: FitRequest, ended: FitOutcome, last: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    result = {
        "state": ended.state,
        "message": ended.message,
        "epochs": last[FIDELITY],
        "best_epoch": last["best_epoch"],
        "best_validation_f1": last[METRIC],
        "seconds": last["seconds"],
        "cpus": request.cpus,
        "gpus": request.gpus,
        "settings": dict(request.settings),
        **(values if ended.state == TrialState.COMPLETE else {}),
    }
    before = read_result(request.folder)
    if (
        ended.state != TrialState.OUT_OF_MEMORY or before is None or before["state"] == TrialState.OUT_OF_MEMORY
    ):  # which is no replacement for a better one
        write_atomically(request.folder / RESULT, json.dumps(result, indent=2) + "\n")
    if ended.state == TrialState.OUT_OF_MEMORY:
        return
    if ended.state == TrialState.COMPLETE and not ended.message:
        (request.folder / ERROR).unlink(missing_ok=True)
    shutil.rmtree(request.state_folder, ignore_errors=True)


class _Driver:
    """Keeps so many fits in flight until none waits, or it is told to stop."""

    def __init__(
        self,
        work: Work,
        parallel: int,
        progress: FitProgress,
        on_end: Callable[[FitRequest, FitOutcome], None] | None,
        wanted: Sequence[FitRequest],
    ) -> None:
        import ray

        self._ray, self._work, self._parallel, self._progress, self._on_end = (
            ray,
            ray.put(work),
            parallel,
            progress,
            on_end,
        )
        self._flying: dict[Any, FitRequest] = {}
        self._wanted = wanted
        self._broken: set[str] = set()
        self.failed = 0
        """Ended, and left to do: an error in code, or out of memory."""

    def run(self, waiting: Sequence[FitRequest], asked: threading.Event, deadline: float | None) -> Reason:
        """Why it ended. Whatever ends it, no fit runs on behind it."""
        queue = list(waiting)
        try:
            while queue or self._flying:
                if asked.is_set():
                    return Reason.INTERRUPTED
                if deadline is not None and time.monotonic() > deadline:
                    return Reason.TIME_UP
                while queue and len(self._flying) < self._parallel:
                    self._start(queue.pop(0))
                done, _ = self._ray.wait(list(self._flying), timeout=_LOOK_S)
                for reference in done:
                    self._end(reference)
                self._progress.look(
                    {request.trial_id: len(read_curve(request.folder)) for request in self._flying.values()}
                )
            return Reason.FINISHED
        finally:
            self._cancel()

    def _start(self, request: FitRequest) -> None:
        remote = self._ray.remote(num_cpus=request.cpus, num_gpus=request.gpus, max_retries=MAX_RETRIES)(work_on)
        self._flying[remote.remote(request, self._work)] = request
        self._progress.begin(
            request.trial_id, request.label, len(read_curve(request.folder)), int(request.recipe["epochs"])
        )

    def _end(self, reference: Any) -> None:
        request = self._flying.pop(reference)
        try:
            ended: FitOutcome = self._ray.get(reference)
        except (
            self._ray.exceptions.RayError
        ) as error:  # a worker that died again and again, work that cannot be loaded there
            ended = FitOutcome(
                TrialState.OUT_OF_MEMORY if state_of(error) == TrialState.OUT_OF_MEMORY else TrialState.FAILED,
                explain(error),
            )
            write_error(request.folder, f"{type(error).__name__}: {error}\n")
            if ended.state == TrialState.OUT_OF_MEMORY:  # Ray ends a worker that takes the machine's last memory
                _write_result(request, ended, (read_curve(request.folder) or [_NOTHING])[-1], {})
        if ended.state == TrialState.DISK_FULL:
            raise RunError(f"The disk is full: {ended.message} Free some space, then go on with the same run.")
        self._progress.end(request.trial_id, ended.state, ended.message, read_curve(request.folder))
        self.failed += ended.state in (TrialState.FAILED, TrialState.OUT_OF_MEMORY)
        if self._on_end:
            self._on_end(request, ended)
        if ended.state == TrialState.FAILED:
            self._broken.add(json.dumps({**request.recipe, "seed": None}, sort_keys=True))
            self._give_up_if_hopeless(request, ended)

    def _give_up_if_hopeless(self, request: FitRequest, ended: FitOutcome) -> None:
        """A broken set-up fails whatever the recipe. Raises RunError."""
        if len(self._broken) < _HOPELESS or any(
            read_curve(fit.folder) or read_result(fit.folder) for fit in self._wanted
        ):
            return
        raise RunError(
            f"Fits of {_HOPELESS} different recipes failed and none has come to the end of an epoch, the last one with: {ended.message} "
            f"See {request.folder / ERROR}."
        )

    def _cancel(self) -> None:
        for reference in self._flying:
            with suppress(Exception):
                self._ray.cancel(reference, force=True)
        if self._flying:
            self._ray.wait(list(self._flying), num_returns=len(self._flying), timeout=_CANCEL_S)
