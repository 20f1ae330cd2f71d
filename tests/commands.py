"""Calling a door as its user does: words in, exit status and what was said out.

In this process, cheaper by an import of torch, or in a process of its own.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import typer

from maskcls.cli import run

ROOT = Path(__file__).parents[1]
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Said:
    """How a door ended, and what it wrote."""

    status: int
    out: str
    err: str


def call(main: Callable[..., Any], *words: object) -> Said:
    """`python -m <door> words…`, errors turned into messages as the command line does."""
    return _said(lambda: run(main), main.__module__, words)


def call_module(module: str, *words: object) -> Said:
    """`python -m module words…` from the module's last line on, as the interpreter runs it, but in this process."""

    def run_it() -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)  # imported by a test before
            runpy.run_module(module, run_name="__main__", alter_sys=True)

    return _said(run_it, module, words)


def start(*words: object, address: str | None = None) -> subprocess.Popen[str]:
    """`python words…` in a process that leads a session of its own, as a shell would start it.

    Args:
        address: of a Ray to join, which saves seconds; by default a command that needs Ray starts one of its own.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read(main: Callable[..., Any], use: Callable[[typer.Context], _Read], *words: object) -> _Read:
    """What `use` makes of a call's options, as the command line reads them; the command itself does not run."""
    found = []

    @functools.wraps(main)
    def instead(context: typer.Context, **_: Any) -> None:
        found.append(use(context))

    said = call(instead, *words)
    assert said.status == 0, said.err
    return found[0]


@contextlib.contextmanager
def _logger_put_back() -> Iterator[None]:
    """A command ends with its process, and so do the changes that it makes to the package's logger. Here the next
    command, or test, finds the logger as this one did."""
    logger = logging.getLogger("maskcls")
    before = list(logger.handlers), logger.level, logger.propagate
    logger.handlers.clear()
    try:
        yield
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)


def _said(run_it: Callable[[], Any], name: str, words: Sequence[object]) -> Said:
    out, err = io.StringIO(), io.StringIO()
    argv = [name, *map(str, words)]
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _logger_put_back(),
    ):
        try:
            run_it()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    return Said(status, out.getvalue(), err.getvalue())
