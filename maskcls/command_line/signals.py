"""SIGINT, SIGTERM and SIGHUP as exceptions and exit statuses, and handlers of them that hold within a block."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from maskcls.errors import HungUp, Terminated

SIGNAL_STATUS = 128
"""Added to a signal's number it is the exit status of a command that the signal ended, as shells have it."""


def interruption(number: int) -> type[KeyboardInterrupt]:
    """Return the exception that a signal raises, by its number."""
    kinds: dict[int, type[KeyboardInterrupt]] = {signal.SIGTERM: Terminated, signal.SIGHUP: HungUp}
    return kinds.get(number, KeyboardInterrupt)


def signal_of(error: BaseException) -> signal.Signals:
    """Return the signal that such an exception stands for."""
    if isinstance(error, Terminated):
        return signal.SIGTERM
    return signal.SIGHUP if isinstance(error, HungUp) else signal.SIGINT


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise an exception within the block, so that what is begun is cleaned up.

    As `handling` does, it leaves SIGHUP ignored where it is, and does nothing outside the main thread.
    """

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        raise interruption(number)

    with handling((signal.SIGTERM, signal.SIGHUP), handle):
        yield


@contextmanager
def handling(numbers: Sequence[signal.Signals], handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handle` get these signals within the block. Only the main thread gets signals; in others do nothing.

    SIGHUP stays ignored where it is, as by nohup. Where it comes, a terminal that is gone is no longer written to: that
    would raise an error in the middle of what is still to be done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]  # later a terminal that is gone is not known as one

    def handle_one(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _write_no_more(terminals)
        handle(number, frame)

    wanted = [one for one in numbers if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle_one) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_no_more(streams: Sequence[int]) -> None:
    """Let what is written to these descriptors go nowhere."""
    for stream in streams:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream)
        os.close(nowhere)
