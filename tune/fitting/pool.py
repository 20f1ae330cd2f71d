"""Run many fits on Ray, each to its end. The same list of fits again reads what is done and goes on with the rest.

    fits/<id>/    recipe.json, epochs.jsonl (the curve), hardware.json (what its numbers depend on), error.txt of an
                  error, state/ (the checkpoint, until the fit is done), and result.json, written last: the fit is done

A fit that diverged is done. One that ran out of memory, or failed by an error in code, is not: that is shown, the other
fits go on, and a resume tries it again, with more memory perhaps. Out of memory leaves a result.json that says so, and
the checkpoint. A result that is no longer what is wanted (`is_done`) stays until the one that replaces it is there. On
a cluster of several nodes the folders must lie on a file system that all of them share, or the run must be kept in a
storage.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskcls.errors import OutOfReach, RunError
from maskcls.storage.store import Store
from tune.fitting import attempts
from tune.fitting.curve import CURVE, read_curve
from tune.fitting.failures import ENDED_NOTE, ERROR, IN_A_ROW, explain, state_of, stopped_by_the_machine, write_error
from tune.fitting.node_watch import NodeWatch
from tune.fitting.progress import FitProgress
from tune.fitting.request import FitRequest, Row, Work
from tune.fitting.result import FitResult, write_result
from tune.fitting.stored import drop_weights, folder_of, run_and_report_stored
from tune.fitting.worker import FitOutcome
from tune.runs import cluster
from tune.runs.joined_ray import gpu_types
from tune.runs.joined_ray.nodes_aside import elsewhere, node_here, telling
from tune.runs.stopping import Outcome, Reason, StopRequest, stoppable
from tune.runs.stored.keeping import sender_of
from tune.states import FIDELITY, TrialState

MAX_RETRIES = 2
"""After a worker's or a node's death, for want of memory or not; an error in code is not retried."""
_LOOK_S = 0.5
_PEEK_S = 5.0
"""How often the storage is asked for the curves of fits at work."""
_ELSEWHERE = ".elsewhere"
"""In a fit's folder on the driver's disk, while the fit is at work: its curve as the storage has it."""
_HOPELESS = 3
"""After so many different recipes have failed and no fit has an epoch, the cause is not in a recipe."""
_CANCEL_S = 15


def has_ended(request: FitRequest, result: FitResult) -> bool:
    """Whether nothing is left to do, whatever was asked."""
    return result.is_final


IsDone = Callable[[FitRequest, FitResult], bool]
"""Whether a result is what a request asks for."""


def to_do(requests: Sequence[FitRequest], is_done: IsDone = has_ended) -> list[FitRequest]:
    """Return the fits that have no result which is done, each once, in their order."""

    def done(request: FitRequest) -> bool:
        result = FitResult.read(request.folder)
        return result is not None and is_done(request, result)

    return [request for request in {request.trial_id: request for request in requests}.values() if not done(request)]


def run_fits(
    requests: Sequence[FitRequest],
    work: Work,
    *,
    parallel: int,
    budget_s: float | None = None,
    grace_s: float = 0.0,
    plain: bool | None = None,
    on_end: Callable[[FitRequest, FitOutcome], None] | None = None,
    is_done: IsDone = has_ended,
    why_skip: Callable[[FitRequest], str] | None = None,
) -> Outcome:
    """Run the fits that are not done, in their order.

    Ray must be connected (`cluster.connected`); the caller holds the run.

    The first SIGINT, SIGTERM or SIGHUP ends it cleanly, a second one aborts. Fits that failed or ran out of memory
    count as remaining.

    Args:
        parallel: how many run at a time.
        budget_s: no more work after that many seconds; None: no bound.
        grace_s: so much longer for fits at work that are expected to end in it.
        plain: progress as lines instead of a table; None: as the terminal can.
        on_end: called with each fit that ends.
        is_done: whether a result is what its request asks for; if not, the fit is done again.
        why_skip: asked before a fit begins: why it is not wanted any more, "" where it is. It counts as remaining.

    Raises:
        RunError: the disk is full, the machine failed, or fits of different recipes failed before their first epoch.
        KeyboardInterrupt: a second signal.
    """
    cluster.quiet()
    wanted = list({request.trial_id: request for request in requests}.values())
    waiting = to_do(wanted, is_done)
    if not waiting:
        return Outcome(Reason.FINISHED, 0)
    asked = StopRequest()
    with FitProgress(len(wanted), len(wanted) - len(waiting), plain) as progress, stoppable(asked, progress.say):
        nodes = NodeWatch(max(fit.cpus for fit in waiting), max(fit.gpus for fit in waiting), "fit")
        nodes.tell = telling(wanted[0].run, progress.say)
        driver = _Driver(work, parallel, progress, on_end, wanted, nodes, why_skip)
        reason = driver.run(waiting, asked, None if budget_s is None else time.monotonic() + budget_s, grace_s)
    left = len(to_do(wanted, is_done))
    if asked.is_set():  # be it after the last fit's end: what follows the fits is not to begin
        return Outcome(Reason.INTERRUPTED, left, asked.signal_number)
    return Outcome(reason if left > driver.failed else Reason.FINISHED, left)


def work_on(request: FitRequest, work: Work, store: Store | None = None) -> FitOutcome:
    """Ray's side of a fit: run it to its end, and write its result unless a resume has to try again.

    `store` is the run's place in a storage.

    An error that leaves the process unable to use its GPU ends the process: Ray tries again in a new one, which only
    says so.
    """
    outcome = replace(run_and_report_stored(request, work, store=store), node=node_here())
    (request.folder / ENDED_NOTE).unlink(missing_ok=True)  # it has been read: a resume tries the fit again
    if outcome.state not in (TrialState.DISK_FULL, TrialState.MACHINE_FAILED, TrialState.FAILED):
        write_result(request, outcome)
    if store is not None and outcome.state != TrialState.MACHINE_FAILED:
        try:
            kept = folder_of(store, request.run, request.folder)
            kept.send(deletes=True)
        except OutOfReach as error:
            return replace(outcome, state=TrialState.MACHINE_FAILED, message=str(error))
        drop_weights(request, kept)
    return outcome


def _without_worker(request: FitRequest, error: BaseException) -> FitOutcome:
    """How a fit ended whose worker died again and again, or could not load the work."""
    short = attempts.killed_for_memory(request.folder)
    attempts.forget(request.folder)
    write_error(request.folder, f"{type(error).__name__}: {error}\n")
    if not short:
        return FitOutcome(TrialState.FAILED, explain(error))
    last = (read_curve(request.folder) or [FitOutcome(TrialState.OUT_OF_MEMORY).last])[-1]
    ended = FitOutcome(TrialState.OUT_OF_MEMORY, short, last)
    write_result(request, ended)
    return ended


def _curve_of(request: FitRequest) -> list[Row]:
    """Return a fit's epochs so far, also of one on a node with another disk, as far as the storage was looked at."""
    return max(read_curve(request.folder), read_curve(request.folder / _ELSEWHERE), key=len)


def _changed(folder: Path) -> tuple[int, int]:
    """Return when the curve in a folder was last written, in nanoseconds, and its bytes; zeros where there is none."""
    try:
        status = (folder / CURVE).stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


class _Driver:
    """Keeps `parallel` fits at work until none waits, or it is asked to stop."""

    def __init__(
        self,
        work: Work,
        parallel: int,
        progress: FitProgress,
        on_end: Callable[[FitRequest, FitOutcome], None] | None,
        wanted: Sequence[FitRequest],
        nodes: NodeWatch,
        why_skip: Callable[[FitRequest], str] | None,
    ) -> None:
        import ray

        self._ray, self._work = ray, ray.put(work)
        self._parallel, self._progress, self._on_end, self._wanted = parallel, progress, on_end, wanted
        self._nodes = nodes
        self._why_skip = why_skip
        self._sender = sender_of(wanted[0].run)
        self._queue: list[FitRequest] = []
        self._flying: dict[Any, FitRequest] = {}
        """The fits at work, by Ray's reference to their outcome."""
        self._looked_at: dict[str, tuple[tuple[int, int], ...]] = {}
        """By the fit's id, what its curve's `_changed` was when it was last read, here and as the storage had it."""
        self._peek_from = 0.0
        self._epochs: dict[str, int] = {}
        """Of each fit at work, by its id: the epochs that it had when it was submitted."""
        self._broken: set[str] = set()
        self._failed_by_machine = 0
        """How many fits the machine failed, or lost, since one has ended."""
        self.failed = 0
        """Fits that ended and remain to do: by an error in code, or out of memory."""

    def run(
        self, waiting: Sequence[FitRequest], asked: StopRequest, deadline: float | None, grace_s: float = 0.0
    ) -> Reason:
        """Run the fits, and return why it stopped. Whatever ends it, no fit runs on afterwards."""
        self._queue = list(waiting)
        if self._sender:
            self._sender.flush()  # workers on other nodes need the splits
        try:
            while self._queue or self._flying:
                if asked.is_set():
                    return Reason.INTERRUPTED
                if self._sender and self._sender.lost:
                    raise RunError(self._sender.lost)
                over_s = -math.inf if deadline is None else time.monotonic() - deadline
                if over_s > 0 and not self._end_within(grace_s - over_s):
                    return Reason.TIME_UP
                while over_s <= 0 and self._queue and len(self._flying) < self._parallel:
                    self._start_or_skip(self._queue.pop(0))
                done, _ = self._ray.wait(list(self._flying), timeout=_LOOK_S)
                for reference in done:
                    self._end(reference)
                self._look()
                self._nodes.look()
            return Reason.FINISHED
        finally:
            self._cancel()

    def _end_within(self, seconds: float) -> bool:
        """Whether a fit at work is expected to end within these seconds, by its pace, or with its only epoch.

        One whose last epoch is done by now has only its result to write, and is waited for in any case.
        """
        for request in self._flying.values():
            curve, epochs = _curve_of(request), int(request.recipe["epochs"])
            done, took_s = (curve[-1][FIDELITY], curve[-1]["seconds"]) if curve else (0, math.inf)
            if done == epochs > self._epochs[request.trial_id]:  # one that is done again has its curve from the start
                return True
            if seconds > 0 and (epochs == 1 or (done and (epochs - done) * took_s / done <= seconds)):
                return True
        return False

    def _look(self) -> None:
        """Note the epochs of the fits at work. A curve is read only where it has changed since: that takes time."""
        self._peek()
        for request in self._flying.values():
            changed = _changed(request.folder), _changed(request.folder / _ELSEWHERE)
            if changed != self._looked_at.get(request.trial_id):
                self._looked_at[request.trial_id] = changed
                self._progress.look({request.trial_id: _curve_of(request)})

    def _peek(self) -> None:
        """Bring the curves of the fits at work from the storage, every few seconds, as far as it answers."""
        began = time.monotonic()
        if self._sender is None or began < self._peek_from:
            return
        for request in self._flying.values():
            if not self._sender.peek(request.folder, CURVE, request.folder / _ELSEWHERE):
                break
        now = time.monotonic()
        self._peek_from = now + max(_PEEK_S, _PEEK_S * (now - began))  # a sixth of the time at most

    def _start_or_skip(self, request: FitRequest) -> None:
        if why := self._why_skip(request) if self._why_skip else "":
            self._progress.skip(request, why)
        else:
            self._start(request)

    def _start(self, request: FitRequest) -> None:
        self._looked_at.pop(request.trial_id, None)
        self._submit(request)
        self._progress.begin(request, read_curve(request.folder))

    def _submit(self, request: FitRequest) -> None:
        shutil.rmtree(request.folder / _ELSEWHERE, ignore_errors=True)  # of an earlier driver
        share = {"num_cpus": request.cpus, "num_gpus": request.gpus, "resources": gpu_types.asked(request.gpus)}
        remote = self._ray.remote(
            **share, label_selector=elsewhere(request.cpus, request.gpus), max_retries=MAX_RETRIES
        )(work_on)
        store = self._sender.store if self._sender else None
        self._epochs[request.trial_id] = len(read_curve(request.folder))
        self._flying[remote.remote(request, self._work, store)] = request

    def _outcome(self, reference: Any, request: FitRequest) -> tuple[FitOutcome, bool] | None:
        """Return how the fit ended, and whether its worker died for good; None if it is to be submitted again."""
        try:
            ended: FitOutcome = self._ray.get(reference)
            if self._sender:
                self._sender.fetch_surely(request.folder)  # what is chosen next reads the fit's result
            return ended, False
        except self._ray.exceptions.RayError as error:
            if self._sender:
                self._sender.fetch(request.folder)
            if state_of(error) == TrialState.OUT_OF_MEMORY:  # Ray ends a worker that takes the machine's last memory
                attempts.note_ray_killed(request.folder, type(error).__name__)
                if self._sender:
                    self._sender.put(request.folder, attempts.NOTE)
                if attempts.times_killed(request.folder) <= MAX_RETRIES:
                    return None
            elif len(read_curve(request.folder)) > self._epochs[request.trial_id]:
                return None  # its workers or nodes died, and it came further all the same
            elif (attempt := attempts.Attempt.read(request.folder)) and self._nodes.died(
                attempt.node, request.trial_id, explain(error)
            ):
                return None  # it goes on on another node
            lost = _without_worker(request, error)
            if self._sender:
                self._sender.later(functools.partial(self._sender.exchange, request.folder))
            return lost, lost.state == TrialState.FAILED

    def _end(self, reference: Any) -> None:
        request = self._flying.pop(reference)
        found = self._outcome(reference, request)
        if found is None:
            self._submit(request)  # it goes on: in smaller micro-batches, or after its last epoch
            return
        ended, is_lost = found
        shutil.rmtree(request.folder / _ELSEWHERE, ignore_errors=True)  # the whole curve has come
        if ended.state == TrialState.DISK_FULL and self._nodes.is_full(ended.node, request.run):
            ended = replace(ended, state=TrialState.MACHINE_FAILED)
        if ended.state == TrialState.DISK_FULL:
            raise RunError(f"The disk is full: {ended.message} Free some space, then go on with the same run.")
        self._progress.end(request, ended, read_curve(request.folder))
        goes_on = ended.state == TrialState.MACHINE_FAILED
        self._failed_by_machine = self._failed_by_machine + 1 if is_lost or goes_on else 0
        if goes_on and self._nodes.failed(ended.node, ended.message):
            self._failed_by_machine = 0
        elif ended.state == TrialState.COMPLETE:
            self._nodes.worked(ended.node)
        if self._failed_by_machine == IN_A_ROW:
            raise stopped_by_the_machine("fits", ended.message, "the same run")
        if goes_on:
            self._queue.insert(0, request)
            return
        self.failed += ended.state in (TrialState.FAILED, TrialState.OUT_OF_MEMORY)
        if self._on_end:
            self._on_end(request, ended)
        if ended.state == TrialState.FAILED:
            self._broken.add(json.dumps({**request.recipe, "seed": None}, sort_keys=True))
            self._give_up_if_hopeless(request, ended)

    def _give_up_if_hopeless(self, request: FitRequest, ended: FitOutcome) -> None:
        """Raise RunError where fits fail whatever their recipe: the set-up is broken."""
        if len(self._broken) < _HOPELESS or any(
            read_curve(fit.folder) or FitResult.read(fit.folder) for fit in self._wanted
        ):
            return
        raise RunError(
            f"Fits of {_HOPELESS} different recipes failed and none has come to the end of an epoch, the last one "
            f"with: {ended.message} See {request.folder / ERROR}."
        )

    def _cancel(self) -> None:
        if not self._flying:
            return
        flying = at_work = list(self._flying)
        # Not what has just ended: Ray 2.60 aborts the driver where a task is cancelled whose result is on its way in
        # ("Tried to complete task that was not pending").
        with suppress(Exception):
            _, at_work = self._ray.wait(flying, num_returns=len(flying), timeout=0)
        for reference in at_work:
            with suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._ray.wait(flying, num_returns=len(flying), timeout=_CANCEL_S)
