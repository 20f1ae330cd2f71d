"""What many fits show while they run: a picture on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune.runs.durations import duration
from tune.states import METRIC, TrialState

_ROWS = 12


@dataclass
class _Row:
    label: str
    epochs: int
    epoch: int
    before: int
    """Epochs that it had behind it when it began here."""
    began: float


class FitProgress:
    """Used as a context; told of each beginning, epoch and end."""

    def __init__(self, total: int, done: int, plain: bool | None = None) -> None:
        self._total, self._done, self._before = total, done, done
        self._console = Console(stderr=True)
        self._plain = not self._console.is_terminal if plain is None else plain
        self._rows: dict[str, _Row] = {}
        self._began = time.monotonic()
        self._live = Live(get_renderable=self.picture, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if not self._plain:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._plain:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line of its own, above the picture."""
        self._console.print(text, style="bold", highlight=False, soft_wrap=True)

    def begin(self, fit_id: str, label: str, epoch: int, epochs: int) -> None:
        """A fit starts, with so many epochs behind it."""
        self._rows[fit_id] = _Row(label or fit_id, epochs, epoch, epoch, time.monotonic())

    def look(self, epochs: Mapping[str, int]) -> None:
        """How many epochs each fit at work has behind it now."""
        for fit_id, epoch in epochs.items():
            self._rows[fit_id].epoch = epoch

    def end(self, fit_id: str, state: str, message: str, curve: Sequence[Mapping[str, Any]]) -> None:
        """A fit ended; elsewhere than on a terminal this is a line, and on one, too, where there is something to say of it."""
        row = self._rows.pop(fit_id)
        self._done += 1
        if self._plain or state != TrialState.COMPLETE or message:
            told = (
                f"best validation F1 {curve[-1][METRIC]:.4f}, {duration(curve[-1]['seconds'])}"
                if curve and not message
                else message
            )
            self._console.print(f"{row.label}: {state}, {told}; {self.headline()}", highlight=False, soft_wrap=True)

    def picture(self) -> Group:
        """The fits at work, and a line about the whole; 80 columns are enough."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column("fit", max_width=48, no_wrap=True)
        for name in ("epoch", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in list(self._rows.values())[:_ROWS]:
            left = self._row_left_s(row)
            table.add_row(row.label, f"{row.epoch}/{row.epochs}", "" if left is None else duration(left))
        return Group(table, Text(self.headline(), style="bold"))

    def headline(self) -> str:
        """How far they are, in under 80 columns."""
        parts = [f"{self._done} of {self._total} fits"]
        here = self._done - self._before
        left = self._total - self._done
        if here > 0 and left > 0:
            parts.append(f"about {duration((time.monotonic() - self._began) / here * left)} left")
        return " · ".join(parts)

    @staticmethod
    def _row_left_s(row: _Row) -> float | None:
        here = row.epoch - row.before
        return (time.monotonic() - row.began) / here * (row.epochs - row.epoch) if here > 0 else None
