"""Who hears what of a command: people on stdout and stderr, with --quiet only its result, with --json also a program.

What is printed within `directed` need not know of these options: stdout and stderr lead to where they should. Only a
result and an error are printed to `results()` and `errors()`, because --quiet leaves them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tune.runs import events


@dataclass(frozen=True)
class _Streams:
    """Where results and errors go, whatever stdout and stderr are."""

    results: TextIO
    errors: TextIO


_streams: _Streams | None = None


def results() -> TextIO:
    """Where the result of a command is printed for people."""
    return _streams.results if _streams else sys.stdout


def errors() -> TextIO:
    """Where errors are printed."""
    return _streams.errors if _streams else sys.stderr


@contextmanager
def directed(*, quiet: bool, as_json: bool) -> Iterator[None]:
    """Within the block, lead what is printed to where the options say.

    Args:
        quiet: only results and errors are heard.
        as_json: stdout has the events (`tune.runs.events`) and nothing else; people read stderr.
    """
    global _streams
    before, out, err = _streams, sys.stdout, sys.stderr
    with ExitStack() as stack:
        for_people = err
        if quiet:
            for_people = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(_logging_errors_only())
            stack.enter_context(redirect_stderr(for_people))
        if quiet or as_json:
            stack.enter_context(redirect_stdout(for_people))
        if as_json:
            stack.enter_context(events.streamed(stack.enter_context(_kept_for_events(out, for_people))))
        _streams = _Streams(for_people if as_json else out, err)
        stack.callback(_restore, before)
        yield


def _restore(before: _Streams | None) -> None:
    global _streams
    _streams = before


@contextmanager
def _logging_errors_only() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _kept_for_events(out: TextIO, others: TextIO) -> Iterator[TextIO]:
    """Yield a stream to where stdout led. What native code and child processes print to stdout goes to `others`."""
    if out is not sys.__stdout__:  # a stream that a caller has put in its place, which only Python writes to
        yield out
        return
    out.flush()
    stdout = out.fileno()
    kept = os.dup(stdout)  # child processes do not get it, so that the reader sees the end when this process ends
    leads_to = 2
    with suppress(OSError):  # a stream that a caller has put in its place, which only Python writes to
        leads_to = others.fileno()
    os.dup2(leads_to, stdout)
    stream = os.fdopen(kept, "w", encoding="utf-8")
    try:
        yield stream
    finally:
        os.dup2(kept, stdout)
        with suppress(OSError):  # the reader may be gone
            stream.close()
