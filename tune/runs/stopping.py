"""How and why a driver's work ends. The first Ctrl-C ends it cleanly, a second one aborts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from types import FrameType

from maskcls.command_line.signals import SIGNAL_STATUS, handling, interruption

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Reason(StrEnum):
    """Why a driver stopped. The texts are shown to people and stand in the records of runs."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    TIME_UP = "time is up"
    USED_UP = "space is used up"
    """Of a search only: every recipe of a finite space has been tried."""


@dataclass(frozen=True)
class Outcome:
    """How a driver's work ended."""

    reason: Reason
    remaining: int
    """Trials, or fits, that were wanted and have not ended."""
    signal_number: int = signal.SIGINT
    """Which signal interrupted it, if one did."""

    @property
    def exit_status(self) -> int:
        """The command's exit status where a signal interrupted it, as shells have it; else 0."""
        return SIGNAL_STATUS + self.signal_number if self.reason == Reason.INTERRUPTED else 0

    def finished_if_last(self, *, is_last: bool) -> Outcome:
        """Return this outcome, as finished where the last part had nothing left to do when a signal came."""
        if is_last and self.reason == Reason.INTERRUPTED and not self.remaining:
            return replace(self, reason=Reason.FINISHED)
        return self


class StopRequest(threading.Event):
    """Set when the driver is asked to stop."""

    signal_number: int = signal.SIGINT
    """Which signal asked."""


@contextmanager
def stoppable(asked: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """Within the block, let the first SIGINT, SIGTERM or SIGHUP set `asked`, and the second raise KeyboardInterrupt or
    what `interruption` has for it.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise interruption(number)
        asked.signal_number = number
        asked.set()
        say("Stopping: what is done is kept. Press Ctrl-C again to abort at once.")

    with handling(_SIGNALS, handle):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay SIGINT, SIGTERM and SIGHUP until the block has ended."""
    came: list[int] = []
    try:
        with handling(_SIGNALS, lambda number, frame: came.append(number)):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])
