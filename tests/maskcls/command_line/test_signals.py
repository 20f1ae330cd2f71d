"""What ends a command from outside: SIGTERM and SIGHUP, the terminal that is gone with it, and nohup."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from maskcls.command_line.signals import handling, interruption, signal_of, terminable
from maskcls.errors import HungUp, Terminated
from tests import commands


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Python's own handlers, whatever started the tests: a script's background commands ignore Ctrl-C, nohup SIGHUP."""
    own: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, HungUp)],
)
def test_each_signal_has_an_exception_and_goes_back_to_its_handler(
    number: signal.Signals, kind: type[KeyboardInterrupt]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(kind) as raised, terminable():
        signal.raise_signal(number)
    assert type(raised.value) is kind is interruption(number)
    assert signal_of(raised.value) == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGTERM, 143, "Terminated."), (signal.SIGHUP, 129, "The terminal was closed.")],
)
def test_a_command_ends_with_the_signals_own_status(number: signal.Signals, status: int, said: str) -> None:
    def main(context: typer.Context) -> None:
        signal.raise_signal(number)

    done = commands.call(main)
    assert (done.status, done.err) == (status, f"{said}\n")


def test_what_is_ignored_as_by_nohup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling((signal.SIGHUP,), lambda number, frame: pytest.fail("handled")):
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


TIDY = """
import signal, sys, time
from maskcls.command_line.signals import handling
came = []
with handling((signal.SIGHUP,), lambda number, frame: came.append(number)):
    print("ready", flush=True)
    while not came:
        time.sleep(0.05)
    print("a line that nobody reads", flush=True)
open(sys.argv[1], "w").write("tidied up")
"""


def test_a_terminal_that_is_closed_is_not_written_to(tmp_path: Path) -> None:
    """Writing to it would be an error in the middle of what is still to be done."""
    done = tmp_path / "done"
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", TIDY, str(done)]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        assert b"ready" in os.read(ours, 100)
        os.close(ours)  # the terminal is gone; the kernel tells those alone whose controlling terminal it was
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    assert done.read_text() == "tidied up"
