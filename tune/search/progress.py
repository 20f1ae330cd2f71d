"""What a search shows while it runs: a table on a terminal, lines elsewhere. Also rewrites the leaderboard after every trial.

What a result or a trial's end costs does not grow with the trials that ended before it; only the leaderboard is written whole. Where
trials end so fast that this would take more than WRITING_SHARE of the driver's time, one rewriting serves several of them.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import optuna
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune.runs import leaderboard
from tune.runs.durations import duration
from tune.runs.folder import SearchRun
from tune.runs.study import Record, begun
from tune.search.plan import MANY, SearchPlan
from tune.states import FIDELITY, METRIC, TrialState

WRITING_SHARE = 0.02
_ROWS = 12
_AT_WORK = (TrialState.RUNNING, "starting", "retried")


@dataclass
class Row:
    """A trial as it was last heard of."""

    trial_id: str
    state: str = "starting"
    epoch: int = 0
    epochs: int = 0
    f1: float | None = None
    best: float | None = None
    photos_per_second: float | None = None
    began: float = 0.0


class Progress(Callback):  # type: ignore[misc]
    """Ray's callbacks in, a picture of the search out. Used as a context."""

    def __init__(self, plan: SearchPlan, run: SearchRun, study: optuna.Study, plain: bool | None = None) -> None:
        self._plan, self._run, self._study = plan, run, study
        self._console = Console(file=sys.stderr)
        self._plain = not self._console.is_terminal if plain is None else plain
        self._standing = leaderboard.LiveRanking(study)
        self._at_work: dict[str, Row] = {}
        self._best_rows: tuple[Row, ...] = ()
        self._latest_rows: tuple[Row, ...] = ()
        """Of the trials that ended here, the best and the latest _ROWS, the first first."""
        self._began = time.monotonic()
        self._ended_before = self._standing.ended
        self._behind = False
        """Whether a trial ended that leaderboard.csv does not hold yet."""
        self._write_from = 0.0
        self._live = Live(get_renderable=self.picture, console=self._console, refresh_per_second=2, transient=False)

    def __enter__(self) -> Self:
        if not self._plain:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._plain:
            self._live.stop()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles callbacks into its experiment folder, from which nothing is ever restored."""
        return {}

    def say(self, text: str) -> None:
        """A line of its own, above the table."""
        self._console.print(text, style="bold", highlight=False)

    def records(self) -> list[Record]:
        """Every trial that was begun, as the study has it now."""
        return begun(self._study)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._row(trial).state = TrialState.RUNNING

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        row = self._row(trial)
        if result[FIDELITY] > 0:
            row.epoch, row.f1, row.best = int(result[FIDELITY]), float(result["validation_f1"]), float(result[METRIC])
            row.photos_per_second = result.get("photos_per_second", row.photos_per_second)
            self._standing.look(row.trial_id)
        if self._plain and row.f1 is not None and not result.get("done"):
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
            raise TuneError(str(error)) from error  # as Ray tells what goes wrong in the other callbacks

    def picture(self) -> Group:
        """The table, and a line about the whole."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("trial")
        table.add_column("state", min_width=13)
        for name in ("epoch", "F1", "best", "photos/s", "left"):
            table.add_column(name, justify="right")
        best = self._standing.best
        for row in self._shown():
            style = "bold green" if best and row.trial_id == best.trial_id else "" if row.state in _AT_WORK else "dim"
            table.add_row(*self._cells(row), style=style)
        return Group(table, Text(self.headline(), style="bold"))

    def headline(self) -> str:
        """How far the search is, in under 80 columns."""
        done, best, preset = self._standing.ended, self._standing.best, self._standing.preset
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

    def _ended(self, trial: Trial) -> None:
        row = self._row(trial)
        ended = self._standing.look(row.trial_id)
        row.state = ended.state
        del self._at_work[row.trial_id]
        self._best_rows = tuple(sorted([*self._best_rows, row], key=lambda row: -(row.best or 0.0)))[:_ROWS]
        self._latest_rows = (row, *self._latest_rows)[:_ROWS]
        self._behind = True
        self._write()
        if self._plain:
            score = f"best F1 {ended.f1:.4f} at epoch {ended.best_epoch}" if ended.f1 is not None else ended.message
            print(f"{row.trial_id} {ended.state}, {score}; {self.headline()}", file=sys.stderr)

    def _write(self) -> None:
        """Rewrite the leaderboard if a trial ended since, and its share of the time allows."""
        began = time.monotonic()
        if not self._behind or began < self._write_from:
            return
        leaderboard.write(self._run, self._standing.records())
        self._behind = False
        self._write_from = began + (time.monotonic() - began) / WRITING_SHARE

    def _shown(self) -> list[Row]:
        """Trials at work, then the best and the latest of those that ended, in the order of their ids."""
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
        """From the pace so far of this driver, and the time budget; None before its first trial ended."""
        here = done - self._ended_before
        if here <= 0:
            return None
        by_trials = (time.monotonic() - self._began) / here * max(0, self._plan.trials - done)
        budget = self._plan.time_budget_s
        return by_trials if budget is None else max(0.0, min(by_trials, budget - (time.monotonic() - self._began)))
