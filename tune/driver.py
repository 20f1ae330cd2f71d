"""run_search: one driver over a run's journal, from where it stands to the number of trials wanted."""

import functools
import threading
import time
from contextlib import suppress
from typing import Any

from ray import tune
from ray.tune import Stopper
from ray.tune.error import TuneError

from maskcls.errors import CallError, RunError
from tune import cluster, leaderboard, resume
from tune.plan import SearchPlan
from tune.progress import Progress
from tune.run_dir import RunDir
from tune.schedulers import EpochASHA
from tune.searcher import StudySearch
from tune.stopping import FINISHED, INTERRUPTED, TIME_UP, Outcome, stoppable
from tune.study import record
from tune.trainable import DISK_FULL, FAILED, Objective, explain, state_of, train

# A worker's or a node's death. Errors in an objective's code are reported, not raised, and so are never retried.
MAX_FAILURES = 2
_HOPELESS = 3


def run_search(plan: SearchPlan, run: RunDir, objective: Objective, *, plain: bool | None = None) -> Outcome:
    """Search until the run has `plan.trials` trials that ended, or until it is stopped. Ray must be connected (`cluster.connected`).

    Writes the journal, trials/, experiment/ and leaderboard.csv. The first SIGINT or SIGTERM ends it cleanly, a second one aborts.

    Args:
        plain: progress as lines instead of a table; None: as the terminal can.

    Raises:
        RunError: another driver holds the run, the disk is full, or the first trials all failed.
        CallError: the space gave a recipe that is none.
        KeyboardInterrupt: a second signal.
    """
    with run.driving():
        return drive(plan, run, objective, plain)


def drive(plan: SearchPlan, run: RunDir, objective: Objective, plain: bool | None = None) -> Outcome:
    """`run_search` of a run that the caller holds (`RunDir.driving`)."""
    cluster.quiet()
    searcher = StudySearch(plan, run)
    resume.begin(searcher.study, plan)
    left = resume.n_left(searcher.study, plan.trials)
    if left <= 0:
        return Outcome(FINISHED, 0)
    scheduler = EpochASHA(plan.base.epochs, searcher.note_error)
    scheduler.give_back(searcher.study.get_trials(deepcopy=False))
    stop = _Stop(searcher, plan.time_budget_s)
    with Progress(plan, run, searcher.study, plain) as progress, stoppable(stop.asked, progress.say):
        try:
            _tuner(plan, run, objective, searcher, scheduler, stop, progress, left).fit()
        except TuneError as error:
            raise _said_plainly(error, run) from None
        finally:
            with suppress(OSError):  # on a full disk the error that came first is the one to tell
                leaderboard.write(run, progress.records())
    if searcher.error:
        raise CallError(str(searcher.error))
    if searcher.full_disk:
        raise _full_disk(searcher.full_disk, run)
    if stop.hopeless:
        raise RunError(stop.hopeless)
    left = resume.n_left(searcher.study, plan.trials)
    return Outcome(FINISHED if left <= 0 else stop.why, left)


def _full_disk(said: str, run: RunDir) -> RunError:
    return RunError(f"The disk is full: {said} Free some space, then go on: --resume {run.path}.")


def _said_plainly(error: BaseException, run: RunDir) -> BaseException:
    """Ray turns what goes wrong in the driver's own writes into an error that is a traceback; the file's error is behind it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return error
    if state_of(cause) == DISK_FULL:
        return _full_disk(explain(cause), run)
    return RunError(f"The search could not write its record: {explain(cause)}. Mend that, then go on: --resume {run.path}.")


def _tuner(
    plan: SearchPlan,
    run: RunDir,
    objective: Objective,
    searcher: StudySearch,
    scheduler: EpochASHA,
    stop: "_Stop",
    progress: Progress,
    left: int,
) -> tune.Tuner:
    trainable = functools.partial(train, objective=objective, run=run.path, cpus=plan.cpus, gpus=plan.gpus)
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": plan.cpus, "gpu": plan.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=left,
            max_concurrent_trials=plan.parallel,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=run.next_part(),
            storage_path=str(run.experiment),
            stop=stop,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[progress],
            verbose=0,
        ),
    )


class _Stop(Stopper):  # type: ignore[misc]
    """Why the search should stop before its trials are done, if it should."""

    def __init__(self, searcher: StudySearch, budget_s: float | None) -> None:
        self._searcher = searcher
        self._deadline = time.monotonic() + budget_s if budget_s is not None else None
        self.asked = threading.Event()
        self.why = FINISHED
        self.hopeless = ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped alone."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles it into its experiment folder, from which nothing is ever restored."""
        return {}

    def stop_all(self) -> bool:
        """Ray asks after every step."""
        if self.asked.is_set():
            self.why = INTERRUPTED
        elif self._deadline is not None and time.monotonic() > self._deadline:
            self.why = TIME_UP
        elif not self.hopeless:
            self.hopeless = self._none_works()
        return bool(self.why != FINISHED or self.hopeless or self._searcher.error or self._searcher.full_disk)

    def _none_works(self) -> str:
        """What to tell where the first trials all failed before an epoch: the others would as well."""
        if len(self._searcher._completed_trials) != _HOPELESS:
            return ""
        ended = [record(trial) for trial in self._searcher.study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if len(ended) > _HOPELESS or any(trial.state != FAILED or trial.epochs for trial in ended):
            return ""
        last = ended[-1]
        log = self._searcher.run.trial(last.trial_id) / "error.txt"
        return f"The first {_HOPELESS} trials all failed before their first epoch, the last one with: {last.message} See {log}."
