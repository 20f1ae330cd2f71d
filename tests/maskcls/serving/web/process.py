"""`maskcls serve` in a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.commands import ROOT


@dataclass(frozen=True)
class Served:
    """A service that answers on a port of loopback."""

    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(bundle: Path, *words: object, open_files: int | None = None) -> Iterator[Served]:
    """Serve a bundle with these options; end it by SIGTERM, which must end it well.

    Args:
        open_files: how many files the process may open at most.
    """

    def limit_files() -> None:
        if open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    process = subprocess.Popen(
        [sys.executable, "-m", "maskcls.serve", "--bundle", str(bundle), "--port", "0", *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=limit_files,
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split("/")[0])
        yield Served(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        status = process.wait(60)
    assert status == 143
