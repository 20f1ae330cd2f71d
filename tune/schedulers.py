"""ASHA over epochs, with what it knew given back on resume."""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from optuna.trial import FrozenTrial
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from tune.study import trial_id
from tune.trainable import FIDELITY, METRIC, MODE

REDUCTION = 3
_SHORT = 6


class EpochASHA(ASHAScheduler):  # type: ignore[misc]
    """Stops the worse two thirds at each rung; up to six epochs, the worse half, so that a short fit has rungs at all.

    The first rung comes after a quarter of the epochs: the contest's teams saw fits peak after 3 to 5, and the first says little.
    `brackets=1`, for several draw from numpy's global generator.

    Args:
        epochs: of the base recipe; they place the rungs.
        on_error: told of a trial whose worker failed, before the searcher is; Ray tells nobody else in time.
    """

    def __init__(self, epochs: int, on_error: Callable[[Trial], None] | None = None) -> None:
        super().__init__(
            time_attr=FIDELITY,
            metric=METRIC,
            mode=MODE,
            max_t=epochs,
            grace_period=max(1, (epochs + 2) // 4),
            reduction_factor=2 if epochs <= _SHORT else REDUCTION,
            brackets=1,
            stop_last_trials=False,  # a space may vary the epochs: the recipe's own last epoch is a trial's end
        )
        self._on_error = on_error

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

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if self._on_error:
            self._on_error(trial)
        super().on_trial_error(tune_controller, trial)

    def rungs(self) -> list[tuple[float, list[float]]]:
        """(epoch, values recorded there, sorted) of each rung, the last first."""
        return [(epoch, sorted(recorded.values())) for epoch, recorded in self._brackets[0]._rungs]
