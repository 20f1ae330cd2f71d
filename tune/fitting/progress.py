"""Progress of many fits: a table on a terminal, lines elsewhere, and events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table

from tune.durations import duration
from tune.fitting.request import EVERYBODY, FitRequest, Row
from tune.fitting.result import FitResult
from tune.fitting.worker import FitOutcome
from tune.runs import events
from tune.runs.live import LivePicture, empty_table
from tune.states import FIDELITY, METRIC, TrialState

_ROWS = 12


@dataclass
class _Fit:
    """A fit at work."""

    request: FitRequest
    label: str
    epochs: int
    epoch: int
    before: int
    """Epochs that were done when it began here."""
    began: float
    reported: int = 0
    """Epochs that were reported as events."""


class FitProgress(LivePicture):
    """Makes a picture of many fits from their beginnings, epochs and ends, and reports these as events. To be used as
    a context."""

    def __init__(self, total: int, done: int, plain: bool | None = None) -> None:
        super().__init__(plain, stays=False)
        self._total, self._done, self._before = total, done, done
        self._fits: dict[str, _Fit] = {}

    def begin(self, request: FitRequest, curve: Sequence[Row]) -> None:
        """Add a fit that starts, with the epochs of this curve done."""
        epochs, done, label = int(request.recipe["epochs"]), len(curve), request.label or request.trial_id
        self._fits[request.trial_id] = _Fit(request, label, epochs, done, done, time.monotonic())
        kind = events.FitBegun if request.repeat is None else events.RepeatBegun
        if request.is_reported:
            events.emit(kind(request.trial_id, request.trial or None, request.repeat, label, epochs))

    def look(self, curves: Mapping[str, Sequence[Row]]) -> None:
        """Take note of the epochs that each fit at work has done."""
        for fit_id, curve in curves.items():
            fit = self._fits[fit_id]
            fit.epoch = len(curve)
            if fit.request.is_reported:
                _report_epochs(fit, curve)

    def end(self, request: FitRequest, outcome: FitOutcome, curve: Sequence[Row]) -> None:
        """Take away a fit that ended. Prints a line, on a terminal only if there is something to say of it."""
        fit = self._fits.pop(request.trial_id)
        self._done += outcome.state != TrialState.MACHINE_FAILED  # it begins again
        if request.is_reported:
            _report_epochs(fit, curve)
            _report_end(fit, outcome, curve)
        message = outcome.message
        if self.plain or outcome.state != TrialState.COMPLETE or message:
            if curve and not message:
                message = f"best validation F1 {curve[-1][METRIC]:.4f}, {duration(curve[-1]['seconds'])}"
            self.console.print(
                f"{fit.label}: {outcome.state}, {message}; {self.headline()}", highlight=False, soft_wrap=True
            )

    def skip(self, request: FitRequest, why: str) -> None:
        """Take away a fit that is not wanted any more, and say so."""
        self._total -= 1
        label = request.label or request.trial_id
        self.console.print(f"{label}: {why}; {self.headline()}", highlight=False, soft_wrap=True)

    def table(self) -> Table:
        """Return one row per fit at work; 80 columns are enough."""
        table = empty_table()
        table.add_column("fit", max_width=48, no_wrap=True)
        for name in ("epoch", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for fit in list(self._fits.values())[:_ROWS]:
            left = self._fit_left_s(fit)
            table.add_row(fit.label, f"{fit.epoch}/{fit.epochs}", "" if left is None else duration(left))
        return table

    def headline(self) -> str:
        """Say how far the fits are, in under 80 columns."""
        parts = [f"{self._done} of {self._total} fits"]
        here = self._done - self._before
        left = self._total - self._done
        if here > 0 and left > 0:
            parts.append(f"about {duration((time.monotonic() - self.began) / here * left)} left")
        return " · ".join(parts)

    @staticmethod
    def _fit_left_s(fit: _Fit) -> float | None:
        here = fit.epoch - fit.before
        return (time.monotonic() - fit.began) / here * (fit.epochs - fit.epoch) if here > 0 else None


def _report_epochs(fit: _Fit, curve: Sequence[Row]) -> None:
    """Report the epochs of the curve that were not reported yet."""
    scored = fit.request.split != EVERYBODY  # without validation people the curve has 0 for a score
    for row in curve[fit.reported :]:
        f1, best = (row["validation_f1"], row[METRIC]) if scored else (None, None)
        trial = fit.request.trial or None
        loss, seconds = row.get("train_loss"), row["seconds"]
        events.emit(events.Epoch(trial, fit.request.trial_id, row[FIDELITY], f1, best, loss, seconds))
    fit.reported = max(fit.reported, len(curve))


def _report_end(fit: _Fit, outcome: FitOutcome, curve: Sequence[Row]) -> None:
    request = fit.request
    # A worker that died gave no last row.
    last = outcome.last if outcome.last[FIDELITY] or not curve else curve[-1]
    result = FitResult.of(request, replace(outcome, last=last))
    kind = events.FitEnded if request.repeat is None else events.RepeatEnded
    events.emit(
        kind(
            request.trial_id,
            request.trial or None,
            request.repeat,
            fit.label,
            result.state,
            result.best_validation_f1 if request.split != EVERYBODY else None,
            result.best_epoch,
            result.epochs,
            result.seconds,
            result.message,
        )
    )
