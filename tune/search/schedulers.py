"""Schedulers, which stop trials that lag behind, by epochs: ASHA, the median rule, or none.

None of them stops the preset's trial: the gain over it is the summary's first number, and would be too large if it were
taken from a trial that was stopped.

A resumed search replays to them what its trials have reported. When it goes on with a trial, Ray gives that another
id. So these schedulers know trials by their ids in the run, which stay the same: all that Ray's schedulers need of a
trial is that it has a `trial_id`, and can be compared with others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

from tune.runs.study import trial_id
from tune.search.plan import ASHA, MEDIAN, NONE
from tune.states import FIDELITY, METRIC, MODE

REDUCTION = 2
"""Of how many trials one passes a rung."""
PRESET_TRIAL = trial_id(0)
"""Every search begins with the preset's recipe."""
OnError = Callable[[Trial], None]


def grace_period(epochs: int) -> int:
    """Return how many epochs every trial gets: half of them, rounded up.

    Measured on two tables of recorded trials (docs/luck.md): on both, searches that stop trials there find better ones
    than searches that stop none. Searches that stop them after a quarter find worse ones where a trial's rank after a
    quarter says little of its rank at the end.
    """
    return (epochs + 1) // 2


@dataclass(frozen=True)
class RunTrial:
    """A trial as a scheduler knows it."""

    trial_id: str
    """Its id in the run."""


class _ReportsErrors:
    """A scheduler that reports a trial whose worker failed. Ray informs the searcher later, and gives it no text."""

    on_error: OnError | None = None

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if self.on_error:
            self.on_error(trial)
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class EpochASHA(_ReportsErrors, ASHAScheduler):  # type: ignore[misc]
    """Stops the worse half of the trials at their half: there is one rung before the end (`grace_period`).

    Asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020).
    `brackets=1`, for several draw from numpy's global generator.

    Args:
        epochs: of the base recipe; they place the rung.
        on_error: called with each trial whose worker failed.
        grace: the first rung's epoch, if not `grace_period`; the next ones are at `reduction` times it, and so on.
        reduction: of how many trials one passes a rung.
    """

    def __init__(
        self, epochs: int, on_error: OnError | None = None, *, grace: int | None = None, reduction: int = REDUCTION
    ) -> None:
        super().__init__(
            time_attr=FIDELITY,
            metric=METRIC,
            mode=MODE,
            max_t=epochs,
            grace_period=grace or grace_period(epochs),
            reduction_factor=reduction,
            brackets=1,
            stop_last_trials=False,  # a space may vary the epochs: a trial ends with its own recipe's last epoch
        )
        self.on_error = on_error

    def replay(self, trials: Iterable[FrozenTrial]) -> None:
        """Fill the rungs with what these trials reported, in their order."""
        for trial in trials:
            known = RunTrial(trial_id(trial.number))
            super().on_trial_add(None, known)
            for epoch in sorted(trial.intermediate_values):
                super().on_trial_result(None, known, {FIDELITY: epoch, METRIC: trial.intermediate_values[epoch]})
            super().on_trial_remove(None, known)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, _known(trial))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide whether the trial goes on. Epochs that it reports again are in the rungs and change nothing."""
        decision: str = super().on_trial_result(tune_controller, _known(trial), result)
        return self.CONTINUE if _is_preset(trial) else decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _known(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_remove(tune_controller, _known(trial))


class EpochMedian(_ReportsErrors, MedianStoppingRule):  # type: ignore[misc]
    """Stops a trial whose best is below the median of the others' running means at its epoch.

    Golovin et al., Google Vizier: A Service for Black-Box Optimization, KDD 2017, section 3.2.1. It never pauses a
    trial, because a paused one would have no checkpoint of Ray's to go on from.

    Args:
        epochs: of the base recipe; no trial is stopped in the first half.
        on_error: called with each trial whose worker failed.
    """

    def __init__(self, epochs: int, on_error: OnError | None = None) -> None:
        super().__init__(
            time_attr=FIDELITY,
            metric=METRIC,
            mode=MODE,
            grace_period=grace_period(epochs),
            min_samples_required=3,
            min_time_slice=math.inf,  # epochs before a trial is paused where too few others are known
        )
        self.on_error = on_error
        self._last_epoch: dict[str, int] = {}
        """The last epoch that each trial has reported, by the trial's id in the run."""

    def replay(self, trials: Iterable[FrozenTrial]) -> None:
        """Take in what these trials reported, without deciding about any of them."""
        for trial in trials:
            known = RunTrial(trial_id(trial.number))
            for epoch in sorted(trial.intermediate_values):
                # Ray's rule records a trial's last result without deciding, so each epoch is passed on as if it were
                # the last.
                super().on_trial_complete(None, known, {FIDELITY: epoch, METRIC: trial.intermediate_values[epoch]})
                self._last_epoch[known.trial_id] = epoch

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide whether the trial goes on. An epoch that it reports again, resumed or retried, changes nothing."""
        if not self._is_new(trial, result):
            return self.CONTINUE  # type: ignore[no-any-return]
        if _is_preset(trial):
            super().on_trial_complete(tune_controller, _known(trial), result)  # records it without a decision
            return self.CONTINUE  # type: ignore[no-any-return]
        return super().on_trial_result(tune_controller, _known(trial), result)  # type: ignore[no-any-return]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record the trial's last epoch, unless it is recorded: Ray reports the result that stopped a trial twice."""
        if self._is_new(trial, result):
            super().on_trial_complete(tune_controller, _known(trial), result)

    def _is_new(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Whether the result is of a later epoch than the trial's results so far; it then counts among them."""
        name, epoch = _known(trial).trial_id, result.get(FIDELITY)
        if epoch is None or epoch <= self._last_epoch.get(name, -1):
            return False
        self._last_epoch[name] = epoch
        return True


class NoEarlyStopping(_ReportsErrors, FIFOScheduler):  # type: ignore[misc]
    """Every trial runs to its last epoch."""

    def __init__(self, epochs: int, on_error: OnError | None = None) -> None:
        super().__init__()
        self.on_error = on_error

    def replay(self, trials: Iterable[FrozenTrial]) -> None:
        """Take in nothing: no decision depends on it."""


EpochScheduler = EpochASHA | EpochMedian | NoEarlyStopping


def create(kind: str, epochs: int, on_error: OnError | None = None) -> EpochScheduler:
    """Make the scheduler of that name (`plan.SCHEDULERS`)."""
    if kind == ASHA:
        return EpochASHA(epochs, on_error)
    if kind == MEDIAN:
        return EpochMedian(epochs, on_error)
    if kind == NONE:
        return NoEarlyStopping(epochs, on_error)
    raise ValueError(f"There is no scheduler {kind!r}.")


def _is_preset(trial: Trial) -> bool:
    return _known(trial).trial_id == PRESET_TRIAL


def _known(trial: Trial) -> RunTrial:
    """Return what a scheduler is to know of one of Ray's trials."""
    return RunTrial(trial.config["trial"])
