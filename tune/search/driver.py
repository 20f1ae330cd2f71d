"""run_search drives a search from where its journal stands to the number of trials wanted."""

from __future__ import annotations

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from maskcls.errors import CallError, RunError
from maskcls.text import printable
from tune.fitting.failures import IN_A_ROW, explain, state_of, stopped_by_the_machine
from tune.fitting.node_watch import NodeWatch
from tune.fitting.request import Work
from tune.runs import cluster, leaderboard
from tune.runs.folder import SearchRun
from tune.runs.joined_ray import gpu_types
from tune.runs.joined_ray.nodes_aside import telling
from tune.runs.session import full_disk
from tune.runs.stopping import Outcome, Reason, StopRequest, stoppable
from tune.runs.stored.keeping import Sender, sender_of
from tune.runs.study import Record, begun, is_own, open_study
from tune.search import actors, samplers, schedulers
from tune.search.first_trials import enqueue_initial_trials, n_left
from tune.search.plan import CLOSE, SearchPlan
from tune.search.progress import Progress
from tune.search.schedulers import EpochScheduler
from tune.search.searcher import StudySearch
from tune.search.tracking import loggers
from tune.search.trainable import train
from tune.search.warm_start import import_trials
from tune.selection.keeping import Keeper, Keeping
from tune.selection.race import ENOUGH, fit_seconds, fits_in
from tune.states import FIDELITY, TrialState

MAX_FAILURES = 2
"""How often a trial's worker, or its node, may die one time after another in which the trial comes no epoch further.

Errors in an objective's code are reported, not raised, and so are never retried.
"""
_HOPELESS = 3
_INSTEAD = 1000
"""At most so many trials does a driver begin again because the machine failed them."""
CHOICE_SHARE = 1 / 3
"""Of the time budget, what the fits after the search may take, as far as fewer finalists help."""
FitsLeft = Callable[[Sequence[Record], float], int]
"""How many fits would follow the search if it ended with these trials, and so many fits were wanted at most."""


def run_search(
    plan: SearchPlan, run: SearchRun, objective: Work, *, plain: bool | None = None, log: Sequence[str] = ()
) -> Outcome:
    """Search until `plan.trials` trials have ended, the time or the space is used up, or somebody stops it.

    Ray must be connected (`cluster.connected`). Writes the journal, trials/, experiment/ and leaderboard.csv. The first
    SIGINT, SIGTERM or SIGHUP ends it cleanly, a second one aborts.

    Args:
        plain: progress as lines instead of a table; None: as the terminal can.
        log: loggers of `tune.search.tracking.loggers`.

    Raises:
        RunError: another driver holds the run, the disk is full, the machine failed, the first trials all failed, or a
            logger's server does not answer.
        CallError: the space gave an invalid recipe.
        KeyboardInterrupt: a second signal.
    """
    with run.driving():
        return drive(plan, run, objective, plain, log)


def drive(
    plan: SearchPlan,
    run: SearchRun,
    objective: Work,
    plain: bool | None = None,
    log: Sequence[str] = (),
    fits_left: FitsLeft | None = None,
    keeping: Keeping | None = None,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Do what `run_search` does, for a run that the caller holds (`RunFolder.driving`).

    Args:
        keeping: which trials' weights stay; None: all.
        callbacks: of Ray's, beside the loggers.
        fits_left: counts the fits that follow the search, and for which a time budget leaves room; None: of a new run.
    """
    cluster.quiet()
    samplers.check_serves(plan.sampler, plan.space, plan.setting)
    study = open_study(run)
    enqueue_initial_trials(study, plan)
    for imported in import_trials(study, plan, plan.learn_from, run):
        print(printable(str(imported)), file=sys.stderr)
        if imported.warning:
            notes = (*run.record().notes, f"Learnt from {imported.run}: {imported.warning}")
            run.write_record(run.record().changed(notes=list(dict.fromkeys(notes))))
    sender = sender_of(run.path)
    searcher = StudySearch(plan, run, sender)
    left = n_left(searcher.study, plan.trials)
    if left <= 0:
        leaderboard.write(run, begun(searcher.study))  # StudySearch may have recorded the last trial's end
        return Outcome(Reason.FINISHED, 0)
    keeper = Keeper(run, keeping, begun(searcher.study)) if keeping else None
    scheduler = schedulers.create(plan.scheduler, plan.base.epochs, searcher.note_error)
    scheduler.replay(trial for trial in searcher.study.get_trials(deepcopy=False) if is_own(trial))
    stop = _Stop(searcher, plan, fits_left, sender)
    logging_to = loggers.create(log, run)
    with (
        Progress(plan, run, searcher.study, plain, on_end=_at_end(run, keeper, sender)) as progress,
        stoppable(stop.asked, progress.say),
        actors.reuse_started(),
        actors.deaths_for_memory(),
    ):
        searcher.nodes.tell = telling(run.path, progress.say)
        try:
            watching = [progress, _Failures(searcher.nodes), *logging_to, *callbacks]
            _tuner(plan, run, objective, searcher, scheduler, stop, watching, left).fit()
        except TuneError as error:
            raise _explained(error, run) from None
        finally:
            with suppress(OSError):  # on a full disk the first error is the one to report
                leaderboard.write(run, progress.records())
    if sender:
        sender.flush()  # what follows needs the trials' files here
    _raise_what_ended_it(searcher, stop, run)
    left = n_left(searcher.study, plan.trials)
    if stop.asked.is_set():  # be it after the last trial's end: what follows the trials is not to begin
        return Outcome(Reason.INTERRUPTED, max(0, left), stop.asked.signal_number)
    used_up = searcher.used_up and stop.reason == Reason.FINISHED
    return Outcome((Reason.USED_UP if used_up else stop.reason) if left > 0 else Reason.FINISHED, left)


def _raise_what_ended_it(searcher: StudySearch, stop: _Stop, run: SearchRun) -> None:
    """Raise the error for which the search was ended, if there is one."""
    if searcher.error:
        raise CallError(str(searcher.error))
    if searcher.full_disk:
        raise full_disk(searcher.full_disk, run)
    if stop.failed_by_machine:
        raise stopped_by_the_machine("trials", searcher.machine_failures[-1], run.resume_command)
    if stop.hopeless:
        raise RunError(stop.hopeless)


def _at_end(run: SearchRun, keeper: Keeper | None, sender: Sender | None) -> Callable[[Record], object] | None:
    """Return what follows a trial's end: its files are fetched from where it ran, and weights are removed."""
    if sender is None:
        return keeper.end if keeper else None

    def follow(ended: Record) -> None:
        sender.exchange(run.trial(ended.trial_id), weights=keeper is None or keeper.keeps(ended))
        if keeper:
            sender.forget(keeper.end(ended))

    return lambda ended: sender.later(functools.partial(follow, ended))


def _explained(error: BaseException, run: SearchRun) -> BaseException:
    """Find the file's error behind Ray's, whose text is a traceback, if the driver could not write."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return error
    if state_of(cause) == TrialState.DISK_FULL:
        return full_disk(explain(cause), run)
    return RunError(
        f"The search could not write its record: {explain(cause)}. Mend that, then go on: {run.resume_command}"
    )


def _tuner(
    plan: SearchPlan,
    run: SearchRun,
    objective: Work,
    searcher: StudySearch,
    scheduler: EpochScheduler,
    stop: _Stop,
    callbacks: list[Callback],
    left: int,
) -> tune.Tuner:
    sender = sender_of(run.path)
    store = sender.store if sender else None
    trainable = functools.partial(train, work=objective, run=run.path, cpus=plan.cpus, gpus=plan.gpus, store=store)
    return tune.Tuner(
        tune.with_resources(
            trainable, actors.Elsewhere([{"CPU": plan.cpus, "GPU": plan.gpus, **gpu_types.asked(plan.gpus)}])
        ),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=left + _INSTEAD,  # the searcher says when there are enough
            max_concurrent_trials=plan.parallel,
            reuse_actors=True,
            trial_name_creator=loggers.trial_name,
            trial_dirname_creator=loggers.trial_name,
        ),
        run_config=tune.RunConfig(
            name=run.next_part(),
            storage_path=str(run.experiment),
            stop=stop,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=callbacks,
            # In a notebook Ray would choose another reporter, which clears all that the cell has shown so far.
            progress_reporter=tune.CLIReporter(),
            verbose=0,
        ),
    )


class _Failures(Callback):  # type: ignore[misc]
    """Counts the deaths of a trial's workers since its last new epoch; Ray counts those of its whole life.

    On machines that may be taken away at any time, a long trial outlives many of them.

    Args:
        nodes: is informed where an epoch was done, and looks again and again which nodes are to leave.
    """

    def __init__(self, nodes: NodeWatch) -> None:
        self._nodes = nodes
        self._furthest: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles callbacks into its experiment folder, from which nothing is ever restored."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Ray calls this every tenth of a second or more often."""
        self._nodes.look()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Begin the count again, unless the trial reports an epoch that it has reported before."""
        epoch = int(result[FIDELITY])
        if epoch > self._furthest.get(trial.trial_id, 0):
            self._furthest[trial.trial_id] = epoch
            trial.max_failures = trial.num_failures + MAX_FAILURES
            self._nodes.worked(str(result.get("node", "")))


class _Stop(Stopper):  # type: ignore[misc]
    """Decides whether the search, or a trial, stops before its end, and why.

    A trial on a node that is set aside is handed on to another one. Once no further one would end in
    the search's part of the time, none begins. Those at work that are expected to end in it are waited for, the others
    are left where they are, for a resumed search.
    """

    def __init__(
        self, searcher: StudySearch, plan: SearchPlan, fits_left: FitsLeft | None = None, sender: Sender | None = None
    ) -> None:
        self._searcher, self._plan, self._sender = searcher, plan, sender
        self._fits_left = fits_left or (lambda trials, room: plan.fits_after)
        self._began = time.monotonic()
        self._known_at = -1
        """How many trials had ended when the next two were estimated."""
        self._reserve = self._a_trial_s = 0.0
        self._begun_at: dict[str, float] = {}
        """By Ray's ids, when a trial was first seen."""
        self._ends_at: dict[str, float] = {}
        """By Ray's ids, when a trial that has reported an epoch is expected to end."""
        self._start_s = 0.0
        """The longest time from a trial's begin to its fit's: of a worker that starts, or of a wait for cores."""
        self.asked = StopRequest()
        self.reason = Reason.FINISHED
        self.hopeless = ""
        self.failed_by_machine = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether to stop this trial: its node is set aside, or the time is up and it would not end soon."""
        if result.get("done"):
            return False
        over, epoch = self._over_s(), int(result[FIDELITY])
        # The first epoch may have filled a store, so the last one counts where it was faster.
        pace_s = min(float(result["seconds"]) / max(1, epoch), float(result.get("epoch_seconds", math.inf)))
        to_go_s = (int(result["config"]["recipe"]["epochs"]) - epoch) * pace_s
        now = time.monotonic()
        if trial_id not in self._ends_at:  # its first report
            self._start_s = max(self._start_s, now - self._begun_at.get(trial_id, now) - float(result["seconds"]))
        self._ends_at[trial_id] = now + to_go_s
        if over < 0:
            leaves = self._searcher.nodes.must_leave(str(result.get("node", "")))
            if leaves:
                self._searcher.hand_on(trial_id)
            return leaves
        if over + to_go_s <= self._close_s():
            return False
        self._searcher.leave(trial_id)
        return True

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles the stopper into its experiment folder, from which nothing is ever restored."""
        return {}

    def stop_all(self) -> bool:
        """Whether the whole search stops. Ray asks after every step."""
        for trial_id in self._searcher.trials.keys() - self._begun_at.keys():
            self._begun_at[trial_id] = time.monotonic()
        if self.asked.is_set():
            self.reason = Reason.INTERRUPTED
        elif self._searcher.closed or self._over_s() > 0 or self._none_would_end():
            self.reason = Reason.TIME_UP
            self._searcher.closed = True
        elif not self.hopeless:
            self.hopeless = self._none_works()
        self.failed_by_machine = len(self._searcher.machine_failures) >= IN_A_ROW
        over = self.reason == Reason.TIME_UP and not self._one_will_end()
        return bool(
            over
            or self.reason == Reason.INTERRUPTED
            or self.hopeless
            or self.failed_by_machine
            or self._searcher.error
            or self._searcher.full_disk
            or (self._sender and self._sender.lost)
        )

    def _over_s(self) -> float:
        """Return the seconds since the search's part of the time budget ended; negative before that."""
        if self._plan.time_budget_s is None:
            return -math.inf
        return time.monotonic() - self._began - self._plan.time_budget_s + self._reserve_s()

    def _close_s(self) -> float:
        return CLOSE * (self._plan.time_budget_s or 0.0)

    def _reserve_s(self) -> float:
        """Estimate from the trials so far how long the fits after the search will take; at most half the budget.

        The time by which the search may exceed its own part is included.
        """
        ended = len(self._searcher.ended)
        if self._known_at != ended:
            self._known_at = ended
            trials, budget_s = begun(self._searcher.study), self._plan.time_budget_s or 0.0
            took = [trial.seconds for trial in trials if trial.state.ended and trial.seconds]
            self._a_trial_s = statistics.median(took) if took else 0.0
            if self._plan.fits_after:
                a_fit_s = fit_seconds(trials, self._plan.base.epochs)
                room = fits_in(CHOICE_SHARE * budget_s, a_fit_s, self._plan.parallel)
                in_turn = math.ceil(self._fits_left(trials, room) / self._plan.parallel)
                start_s = min(self._start_s, a_fit_s)
                needed = in_turn * a_fit_s + start_s + self._close_s() if in_turn else 0.0
                self._reserve = min(needed, budget_s / 2)
        return self._reserve

    def _one_will_end(self) -> bool:
        """Whether a trial at work is worth waiting for: it is expected to end in the search's part of the time.

        Until it reports an epoch, its epochs are expected to take what trials took in the median. Where no fits follow
        the search, every trial is worth it until that time is up.
        """
        over, at_work = self._over_s(), self._searcher.at_work()
        if over > self._close_s():
            return False
        if not self._plan.fits_after:
            return bool(at_work)
        by = time.monotonic() + self._close_s() - over
        return any(self._end_of(trial_id) <= by for trial_id in at_work)

    def _end_of(self, trial_id: str) -> float:
        """When a trial at work is expected to end, by the monotonic clock."""
        whole_s = ENOUGH * self._a_trial_s
        return self._ends_at.get(trial_id, self._begun_at[trial_id] + self._searcher.share_left(trial_id) * whole_s)

    def _none_would_end(self) -> bool:
        """Whether a new trial that takes what they took so far, in the median, would not end in the search's part."""
        return self._over_s() + ENOUGH * self._a_trial_s > self._close_s()

    def _none_works(self) -> str:
        """Return a message if all of the first trials failed before an epoch, as the others would; "" otherwise."""
        if len(self._searcher.ended) != _HOPELESS:
            return ""
        ended = [record for record in begun(self._searcher.study) if record.state.ended]
        if len(ended) > _HOPELESS or any(trial.state != TrialState.FAILED or trial.epochs for trial in ended):
            return ""
        last = ended[-1]
        log = self._searcher.run.trial(last.trial_id) / "error.txt"
        failed = f"The first {_HOPELESS} trials all failed before their first epoch"
        return f"{failed}, the last one with: {last.message} See {log}."
