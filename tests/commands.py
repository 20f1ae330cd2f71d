"""Calling a door as its user does: words in, exit status and what was said out. In this process: cheaper by an import of torch."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from maskcls.cli import run


@dataclass(frozen=True)
class Said:
    """How a door ended, and what it wrote."""

    status: int
    out: str
    err: str


def call(main: Callable[..., Any], *words: object) -> Said:
    """`python -m <door> words…`, errors turned into messages as the command line does."""
    out, err = io.StringIO(), io.StringIO()
    argv = [main.__module__, *map(str, words)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(main)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    return Said(status, out.getvalue(), err.getvalue())
