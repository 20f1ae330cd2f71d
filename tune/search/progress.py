"""Shows a search while it runs, as a table on a terminal and as lines elsewhere, reports its trials as events, and
rewrites the leaderboard.

What a result or a trial's end costs does not grow with the trials that ended before it; only the leaderboard is written
whole. Where trials end so fast that this would take more than WRITING_SHARE of the driver's time, one rewriting serves
several of them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import optuna
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from rich.table import Table

from tune.runs import events, leaderboard
from tune.runs.durations import duration
from tune.runs.folder import SearchRun
from tune.runs.live import LivePicture, empty_table
from tune.runs.study import Record, begun
from tune.search.plan import MANY, SearchPlan
from tune.states import FIDELITY, METRIC, TrialState

WRITING_SHARE = 0.02
_ROWS = 12
_AT_WORK = (TrialState.RUNNING, "starting", "retried")


@dataclass
class Row:
    """A trial with the last result that it reported."""

    trial_id: str
    state: str = "starting"
    epoch: int = 0
    epochs: int = 0
    f1: float | None = None
    best: float | None = None
    photos_per_second: float | None = None
    began: float = 0.0
    reported: int = 0
    """The last epoch that was reported as an event: a worker that died reports its epochs again."""


class Progress(LivePicture, Callback):  # type: ignore[misc]
    """Makes a picture of the search from Ray's callbacks. To be used as a context."""

    def __init__(self, plan: SearchPlan, run: SearchRun, study: optuna.Study, plain: bool | None = None) -> None:
        super().__init__(plain, stays=True)
        self._plan, self._run, self._study = plan, run, study
        self._ranking = leaderboard.LiveRanking(study)
        self._at_work: dict[str, Row] = {}
        self._best_rows: tuple[Row, ...] = ()
        self._latest_rows: tuple[Row, ...] = ()
        """Trials that ended in this driver, at most _ROWS: the latest first, and in `_best_rows` the best first."""
        self._ended_before = self._ranking.ended
        self._behind = False
        """Whether leaderboard.csv lacks a trial that has ended."""
        self._write_from = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles callbacks into its experiment folder, from which nothing is ever restored."""
        return {}

    def records(self) -> list[Record]:
        """Return every trial that was begun, as the study has it now."""
        return begun(self._study)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        row = self._row(trial)
        row.state = TrialState.RUNNING
        one = self._ranking.update(row.trial_id)
        events.emit(events.TrialBegun(row.trial_id, one.origin, one.overrides, one.params, row.epochs))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        row = self._row(trial)
        if result[FIDELITY] > 0:
            row.epoch, row.f1, row.best = int(result[FIDELITY]), float(result["validation_f1"]), float(result[METRIC])
            row.photos_per_second = result.get("photos_per_second", row.photos_per_second)
            self._ranking.update(row.trial_id)
            self._report_epoch(row, result)
        if self.plain and row.f1 is not None and not result.get("done"):
            print(f"{row.trial_id} epoch {row.epoch}/{row.epochs} F1 {row.f1:.4f} best {row.best:.4f}", file=sys.stderr)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._row(trial).state = "retried"

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended(trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Ray calls this every tenth of a second or more often."""
        try:
            self._write()
        except OSError as error:
            raise TuneError(str(error)) from error  # as Ray does with an error in the other callbacks

    def table(self) -> Table:
        """Return one row per trial that is at work, and some of those that have ended."""
        table = empty_table()
        table.add_column("trial")
        table.add_column("state", min_width=13)
        for name in ("epoch", "F1", "best", "photos/s", "left"):
            table.add_column(name, justify="right")
        best = self._ranking.best
        for row in self._shown():
            style = "bold green" if best and row.trial_id == best.trial_id else "" if row.state in _AT_WORK else "dim"
            table.add_row(*self._cells(row), style=style)
        return table

    def headline(self) -> str:
        """Say in under 80 columns how far the search is."""
        done, best, preset = self._ranking.ended, self._ranking.best, self._ranking.preset
        parts = [f"{done} of {self._plan.trials} trials" if self._plan.trials < MANY else f"{done} trials"]
        if best:
            parts.append(f"best {best.f1:.4f} (trial {best.trial_id})")
        if best and preset and preset.f1 is not None:
            parts.append(f"preset {preset.f1:.4f}")
        left = self._left_s(done)
        if left:
            parts.append(f"about {duration(left)} left")
        return " · ".join(parts)

    def _row(self, trial: Trial) -> Row:
        trial_id = trial.config["trial"]
        if trial_id not in self._at_work:
            self._at_work[trial_id] = Row(
                trial_id, epochs=int(trial.config["recipe"]["epochs"]), began=time.monotonic()
            )
        return self._at_work[trial_id]

    @staticmethod
    def _report_epoch(row: Row, result: dict[str, Any]) -> None:
        if row.epoch > row.reported:
            row.reported = row.epoch
            loss, seconds = result.get("train_loss"), result.get("seconds", 0.0)
            events.emit(events.Epoch(row.trial_id, None, row.epoch, row.f1, row.best, loss, seconds))

    def _ended(self, trial: Trial) -> None:
        row = self._row(trial)
        ended = self._ranking.update(row.trial_id)
        row.state = ended.state
        events.emit(
            events.TrialEnded(
                ended.trial_id,
                ended.state,
                ended.f1,
                ended.best_epoch,
                ended.epochs,
                ended.seconds,
                ended.message,
            )
        )
        del self._at_work[row.trial_id]
        self._best_rows = tuple(sorted([*self._best_rows, row], key=lambda row: -(row.best or 0.0)))[:_ROWS]
        self._latest_rows = (row, *self._latest_rows)[:_ROWS]
        self._behind = True
        self._write()
        if self.plain:
            score = f"best F1 {ended.f1:.4f} at epoch {ended.best_epoch}" if ended.f1 is not None else ended.message
            print(f"{row.trial_id} {ended.state}, {score}; {self.headline()}", file=sys.stderr)

    def _write(self) -> None:
        """Rewrite the leaderboard if a trial has ended since, and if that takes no more than its share of the time."""
        began = time.monotonic()
        if not self._behind or began < self._write_from:
            return
        leaderboard.write(self._run, self._ranking.records())
        self._behind = False
        self._write_from = began + (time.monotonic() - began) / WRITING_SHARE

    def _shown(self) -> list[Row]:
        """Return the trials at work, and the best and the latest of those that ended, in the order of their ids."""
        at_work = list(self._at_work.values())
        room = max(2, _ROWS - len(at_work))
        best = self._best_rows[: room // 2]
        latest = [row for row in self._latest_rows if row not in best][: room - len(best)]
        return sorted([*at_work[-_ROWS:], *best, *latest], key=lambda row: row.trial_id)

    def _cells(self, row: Row) -> tuple[str, ...]:
        def number(value: float | None, form: str) -> str:
            return "" if value is None else format(value, form)

        at_work = row.state == TrialState.RUNNING and row.epoch
        left = (time.monotonic() - row.began) / row.epoch * (row.epochs - row.epoch) if at_work else None
        return (
            row.trial_id,
            row.state,
            f"{row.epoch}/{row.epochs}",
            number(row.f1, ".4f"),
            number(row.best, ".4f"),
            number(row.photos_per_second, ",.0f"),
            "" if left is None else duration(left),
        )

    def _left_s(self, done: int) -> float | None:
        """Estimate from this driver's pace, and the time budget, what is left; None before its first trial ended."""
        here = done - self._ended_before
        if here <= 0:
            return None
        by_trials = (time.monotonic() - self.began) / here * max(0, self._plan.trials - done)
        budget = self._plan.time_budget_s
        return by_trials if budget is None else max(0.0, min(by_trials, budget - (time.monotonic() - self.began)))
