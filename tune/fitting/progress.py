"""Progress of many fits: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from tune.runs.durations import duration
from tune.runs.live import LivePicture, empty_table
from tune.states import METRIC, TrialState

_ROWS = 12


@dataclass
class _Row:
    label: str
    epochs: int
    epoch: int
    before: int
    """Epochs that were done when it began here."""
    began: float


class FitProgress(LivePicture):
    """Makes a picture of many fits from their beginnings, epochs and ends. To be used as a context."""

    def __init__(self, total: int, done: int, plain: bool | None = None) -> None:
        super().__init__(plain, stays=False)
        self._total, self._done, self._before = total, done, done
        self._rows: dict[str, _Row] = {}

    def begin(self, fit_id: str, label: str, epoch: int, epochs: int) -> None:
        """Add a fit that starts, with so many epochs done."""
        self._rows[fit_id] = _Row(label or fit_id, epochs, epoch, epoch, time.monotonic())

    def look(self, epochs: Mapping[str, int]) -> None:
        """Take note of how many epochs each fit at work has done."""
        for fit_id, epoch in epochs.items():
            self._rows[fit_id].epoch = epoch

    def end(self, fit_id: str, state: str, message: str, curve: Sequence[Mapping[str, Any]]) -> None:
        """Take away a fit that ended. Prints a line, on a terminal only if there is something to say of it."""
        row = self._rows.pop(fit_id)
        self._done += 1
        if self.plain or state != TrialState.COMPLETE or message:
            if curve and not message:
                message = f"best validation F1 {curve[-1][METRIC]:.4f}, {duration(curve[-1]['seconds'])}"
            self.console.print(f"{row.label}: {state}, {message}; {self.headline()}", highlight=False, soft_wrap=True)

    def table(self) -> Table:
        """Return one row per fit at work; 80 columns are enough."""
        table = empty_table()
        table.add_column("fit", max_width=48, no_wrap=True)
        for name in ("epoch", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in list(self._rows.values())[:_ROWS]:
            left = self._row_left_s(row)
            table.add_row(row.label, f"{row.epoch}/{row.epochs}", "" if left is None else duration(left))
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
    def _row_left_s(row: _Row) -> float | None:
        here = row.epoch - row.before
        return (time.monotonic() - row.began) / here * (row.epochs - row.epoch) if here > 0 else None
