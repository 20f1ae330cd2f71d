"""Shows a search while it runs, as a table on a terminal and as lines elsewhere, reports its trials as events, and
rewrites the leaderboard.

What a result or a trial's end costs does not grow with the trials that ended before it; only the leaderboard is written
whole. Where trials end so fast that this would take more than WRITING_SHARE of the driver's time, one rewriting serves
several of them.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import optuna
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from rich.table import Table

from maskcls.data.dataset import SPLIT
from maskcls.data.splits import Split
from maskcls.errors import DataError
from maskcls.text import printable
from tune.durations import duration
from tune.fitting.gauges import WORKER_DIED, SearchGauges
from tune.runs import events, leaderboard
from tune.runs.folder import SearchRun
from tune.runs.live import LivePicture, empty_table
from tune.runs.record import MANY
from tune.runs.study import Record, begun, is_own
from tune.search.plan import SearchPlan
from tune.states import FIDELITY, METRIC, TrialState
from tune.statistics.optimism import ScoreMoments

WRITING_SHARE = 0.02
_ROWS = 12
COLUMNS = ("trial", "state", "epoch", "F1", "best", "photos/s", "left")
NARROW, WIDE = 70, 100
"""Columns of a terminal from which on the table has photos/s, and a trial's reason."""
FAILED_STATES = (TrialState.FAILED, TrialState.DIVERGED, TrialState.OUT_OF_MEMORY)
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
    why: str = ""
    """Why it ended before its last epoch, or what is to be said of its end."""


class _Reached:
    """The best scores that trials had reached at each epoch, in rising order."""

    def __init__(self) -> None:
        self._values: dict[int, list[float]] = {}

    def add(self, epoch: int, value: float) -> None:
        """Add a trial's best score up to an epoch."""
        insort(self._values.setdefault(epoch, []), value)

    def behind(self, epoch: int, value: float) -> tuple[int, int]:
        """Return how many trials had reached more than the value at the epoch, and how many others reached it."""
        values = self._values.get(epoch, [])
        return len(values) - bisect_right(values, value), max(0, len(values) - 1)


def validation_people(run: SearchRun) -> int:
    """Return how many people validate the run's trials; 0 where that is not known."""
    try:
        return len(Split.load(run.data / SPLIT).validation)
    except DataError:
        return 0


class Progress(LivePicture, Callback):  # type: ignore[misc]
    """Makes a picture of the search from Ray's callbacks. To be used as a context.

    Args:
        on_end: is given each trial that ends, with its end as the study has it.
    """

    def __init__(
        self,
        plan: SearchPlan,
        run: SearchRun,
        study: optuna.Study,
        plain: bool | None = None,
        on_end: Callable[[Record], object] | None = None,
    ) -> None:
        super().__init__(plain, stays=True)
        self._on_end = on_end or (lambda ended: None)
        self._plan, self._run, self._study = plan, run, study
        self._ranking = leaderboard.LiveRanking(study)
        self._at_work: dict[str, Row] = {}
        self._best_rows: tuple[Row, ...] = ()
        self._latest_rows: tuple[Row, ...] = ()
        """Trials that ended in this driver, at most _ROWS: the latest first, and in `_best_rows` the best first."""
        self._ended_before = self._ranking.ended
        self._scores, self._reached = ScoreMoments(), _Reached()
        for trial in study.get_trials(deepcopy=False):
            if is_own(trial) and trial.state.is_finished():  # one that runs is resumed, and reports its epochs again
                for epoch, value in trial.intermediate_values.items():
                    self._reached.add(epoch, value)
        for record in self._ranking.records():
            self._count_score(record)
        self._people = validation_people(run)
        self._saved_s = 0.0
        """What trials of this driver did not have to compute, because others had."""
        self._gauges = SearchGauges(run.name)
        self._behind = False
        """Whether leaderboard.csv lacks a trial that has ended."""
        self._write_from = 0.0

    def __enter__(self) -> Self:
        self._gauges.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for row in self._at_work.values():  # aborted: Ray reports no end of these
            row.state = TrialState.UNFINISHED
        super().__exit__(kind, error, trace)
        self._gauges.__exit__(kind, error, trace)

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
        self._show_states()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        row = self._row(trial)
        if result[FIDELITY] > 0:
            row.epoch, row.f1, row.best = int(result[FIDELITY]), float(result["validation_f1"]), float(result[METRIC])
            row.photos_per_second = result.get("photos_per_second", row.photos_per_second)
            self._ranking.update(row.trial_id)
            if row.epoch > row.reported:
                self._saved_s += float(result.get("saved_s", 0.0))
                self._reached.add(row.epoch, row.best)
            self._report_epoch(row, result)
        if self.plain and row.f1 is not None and not result.get("done"):
            print(f"{row.trial_id} epoch {row.epoch}/{row.epochs} F1 {row.f1:.4f} best {row.best:.4f}", file=sys.stderr)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._row(trial).state = "retried"
        self._gauges.count_failure(WORKER_DIED)

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
        columns = self._columns()
        table.add_column("trial", no_wrap=True)
        table.add_column("state", min_width=13, no_wrap=True)
        for name in columns[2:]:
            table.add_column(name, justify="left" if name == "why" else "right", no_wrap=True, overflow="ellipsis")
        best = self._ranking.best
        for row in self._shown():
            style = "bold green" if best and row.trial_id == best.trial_id else "" if row.state in _AT_WORK else "dim"
            cells = self._cells(row)
            table.add_row(*(cells[name] for name in columns), style=style)
        return table

    def remarks(self) -> list[str]:
        """Say why the latest trial stopped, where the table has no room for that, and what the search expects."""
        latest = self._latest_rows[0] if self._latest_rows else None
        stopped = [f"{latest.trial_id} {latest.state}: {latest.why}"] if latest and latest.why else []
        expected = " · ".join(self._expected())
        return [*(stopped if "why" not in self._columns() else []), *([expected] if expected else [])]

    def headline(self) -> str:
        """Say in under 80 columns how far the search is."""
        done, best, preset = self._ranking.ended, self._ranking.best, self._ranking.preset
        parts = [f"{done} of {self._plan.trials} trials" if self._plan.trials < MANY else f"{done} trials"]
        if best:
            parts.append(f"best {best.f1:.4f} (trial {best.trial_id})")
        if best and preset and preset.f1 is not None:
            parts.append(f"preset {preset.f1:.4f}")
        left = None if self.is_over else self._left_s(done)
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
        row.why = self._why(ended)
        self._count_score(ended)
        if ended.state in FAILED_STATES:
            self._gauges.count_failure(ended.state)
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
        self._show_states()
        self._on_end(ended)
        self._behind = True
        self._write()
        if self.plain:
            if ended.f1 is not None and ended.state.ended:
                said = f"best F1 {ended.f1:.4f} at epoch {ended.best_epoch}"
            else:  # of a trial that has not ended, the study has no message
                said = ended.message or str((trial.last_result or {}).get("message", ""))
            why = f" ({row.why})" if row.why and ended.f1 is not None else ""
            more = "".join(f" · {remark}" for remark in self._expected())
            print(printable(f"{row.trial_id} {ended.state}{why}, {said}; {self.headline()}{more}"), file=sys.stderr)

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

    def _columns(self) -> tuple[str, ...]:
        """Return the names of the columns that the terminal has room for."""
        width = self.console.width
        all_but_why = tuple(name for name in COLUMNS if width >= NARROW or name != "photos/s")
        return (*all_but_why, "why") if width >= WIDE else all_but_why

    def _expected(self) -> list[str]:
        """Say what is expected of the best score, and what shared photos and features have saved."""
        optimism = self._scores.expected_optimism(self._people)
        said = [] if optimism is None else [f"expected optimism of the best {optimism:.3f}"]
        return said + ([f"saved {duration(self._saved_s)}"] if self._saved_s >= 1 else [])

    def _why(self, ended: Record) -> str:
        """Return why a trial ended before its last epoch; "" if it did not and has no message."""
        if ended.state == TrialState.STOPPED_EARLY and not ended.message and ended.f1 is not None:
            behind, of = self._reached.behind(ended.epochs, ended.f1)
            return f"behind {behind} of {of} at epoch {ended.epochs}"
        return " ".join(ended.message.split())

    def _count_score(self, record: Record) -> None:
        if record.state.ended and record.f1 is not None:
            self._scores.add(record.f1)

    def _show_states(self) -> None:
        """Show the number of trials by state as metrics."""
        running = sum(row.state in _AT_WORK for row in self._at_work.values())
        ended = {str(state): number for state, number in self._ranking.states.items() if state.ended}
        self._gauges.set({str(TrialState.RUNNING): running, **ended})

    def _cells(self, row: Row) -> dict[str, str]:
        def number(value: float | None, form: str) -> str:
            return "" if value is None else format(value, form)

        at_work = row.state == TrialState.RUNNING and row.epoch
        left = (time.monotonic() - row.began) / row.epoch * (row.epochs - row.epoch) if at_work else None
        return {
            "trial": row.trial_id,
            "state": row.state,
            "epoch": f"{row.epoch}/{row.epochs}",
            "F1": number(row.f1, ".4f"),
            "best": number(row.best, ".4f"),
            "photos/s": number(row.photos_per_second, ",.0f"),
            "left": "" if left is None else duration(left),
            "why": row.why,
        }

    def _left_s(self, done: int) -> float | None:
        """Estimate from this driver's pace, and the time budget, what is left; None before its first trial ended."""
        here = done - self._ended_before
        if here <= 0:
            return None
        by_trials = (time.monotonic() - self.began) / here * max(0, self._plan.trials - done)
        budget = self._plan.time_budget_s
        return by_trials if budget is None else max(0.0, min(by_trials, budget - (time.monotonic() - self.began)))
