"""Who stops trials that lag, over epochs, with what it knew given back on resume: ASHA, the median rule, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from optuna.trial import FrozenTrial
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

from tune.runs.study import trial_id
from tune.search.plan import ASHA, MEDIAN
from tune.states import FIDELITY, METRIC, MODE

REDUCTION = 3
_SHORT = 6
OnError = Callable[[Trial], None]


def grace_period(epochs: int) -> int:
    """Epochs that every trial gets: a quarter. The contest's teams saw fits peak after 3 to 5, and the first says little."""
    return max(1, (epochs + 2) // 4)


class _TellsErrors:
    """A scheduler that tells of a trial whose worker failed before the searcher is told; Ray tells nobody else in time."""

    on_error: OnError | None = None

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if self.on_error:
            self.on_error(trial)
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class EpochASHA(_TellsErrors, ASHAScheduler):  # type: ignore[misc]
    """Stops the worse two thirds at each rung; up to six epochs, the worse half, so that a short fit has rungs at all.

    Asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020). `brackets=1`, for
    several draw from numpy's global generator.

    Args:
        epochs: of the base recipe; they place the rungs.
        on_error: told of a trial whose worker failed.
    """

    def __init__(self, epochs: int, on_error: OnError | None = None) -> None:
        super().__init__(
            time_attr=FIDELITY,
            metric=METRIC,
            mode=MODE,
            max_t=epochs,
            grace_period=grace_period(epochs),
            reduction_factor=2 if epochs <= _SHORT else REDUCTION,
            brackets=1,
            stop_last_trials=False,  # a space may vary the epochs: the recipe's own last epoch is a trial's end
        )
        self.on_error = on_error

    def give_back(self, trials: Iterable[FrozenTrial]) -> None:
        """The rungs that there were when these trials had reported what they did, in their order."""
        for trial in trials:
            told = SimpleNamespace(trial_id=trial_id(trial.number))
            for epoch in sorted(trial.intermediate_values):
                self._brackets[0].on_result(told, epoch, trial.intermediate_values[epoch])

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Ray knows a trial that is taken up again by a new id: its places in the rungs go over to that, and are decided already."""
        super().on_trial_add(tune_controller, trial)
        for _, recorded in self._brackets[0]._rungs:
            if trial.config["trial"] in recorded:
                recorded[trial.trial_id] = recorded.pop(trial.config["trial"])

    def rungs(self) -> list[tuple[float, list[float]]]:
        """(epoch, values recorded there, sorted) of each rung, the last first."""
        return [(epoch, sorted(recorded.values())) for epoch, recorded in self._brackets[0]._rungs]


class EpochMedian(_TellsErrors, MedianStoppingRule):  # type: ignore[misc]
    """Stops a trial whose best is below the median of the others' running means at its epoch.

    Golovin et al., Google Vizier: A Service for Black-Box Optimization, KDD 2017, section 3.2.1. Never pauses a trial, for a paused
    one has no checkpoint of Ray's to go on from.

    Args:
        epochs: of the base recipe; the first quarter stops nobody.
        on_error: told of a trial whose worker failed.
    """

    def __init__(self, epochs: int, on_error: OnError | None = None) -> None:
        super().__init__(
            time_attr=FIDELITY, metric=METRIC, mode=MODE, grace_period=grace_period(epochs), min_samples_required=3
        )
        self.on_error = on_error

    def give_back(self, trials: Iterable[FrozenTrial]) -> None:
        """What these trials reported, as the rule keeps it."""
        for trial in trials:
            values = trial.intermediate_values
            if values:
                self._results[trial_id(trial.number)] = [
                    {FIDELITY: epoch, METRIC: values[epoch]} for epoch in sorted(values)
                ]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """What a trial that is taken up again had reported is its own from now on."""
        super().on_trial_add(tune_controller, trial)
        if trial.config["trial"] in self._results:
            self._results[trial] = self._results.pop(trial.config["trial"])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """A trial that is taken up again reports its epochs again; what they decided is decided."""
        if any(told[FIDELITY] >= result[FIDELITY] for told in self._results.get(trial, ())):
            return self.CONTINUE  # type: ignore[no-any-return]
        return super().on_trial_result(tune_controller, trial, result)  # type: ignore[no-any-return]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Its last epoch, unless that was reported as a result before."""
        if FIDELITY in result and not any(told[FIDELITY] >= result[FIDELITY] for told in self._results.get(trial, ())):
            super().on_trial_complete(tune_controller, trial, result)

    def _on_insufficient_samples(self, tune_controller: Any, trial: Trial, time: float) -> str:
        return self.CONTINUE  # type: ignore[no-any-return]


class NoEarlyStopping(_TellsErrors, FIFOScheduler):  # type: ignore[misc]
    """Every trial runs to its last epoch."""

    def __init__(self, epochs: int, on_error: OnError | None = None) -> None:
        super().__init__()
        self.on_error = on_error

    def give_back(self, trials: Iterable[FrozenTrial]) -> None:
        """Nothing is known."""


EpochScheduler = EpochASHA | EpochMedian | NoEarlyStopping


def create(kind: str, epochs: int, on_error: OnError | None = None) -> EpochScheduler:
    """The scheduler of that name (`plan.SCHEDULERS`)."""
    if kind == ASHA:
        return EpochASHA(epochs, on_error)
    return EpochMedian(epochs, on_error) if kind == MEDIAN else NoEarlyStopping(epochs, on_error)
