"""A small disk of its own for a test, which it fills and empties again."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILLER = "filler"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount an empty file system of this size in memory. The test is skipped where that may not be done."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    folder.mkdir(parents=True)
    options = f"size={megabytes}m,mode=0755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, but: int = 0) -> None:
    """Fill the disk, but for so many bytes at its end.

    A process at work there may take some of the room first, so what is then left is asked for again.
    """
    with (disk / FILLER).open("ab", buffering=0) as file:
        while (room := shutil.disk_usage(disk).free - but) > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, room)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            else:
                return


def empty(disk: Path) -> None:
    """Take the filling away."""
    (disk / FILLER).unlink()


def contents(disk: Path) -> dict[str, bytes]:
    """What each file holds, but for the filling."""
    return {
        str(file.relative_to(disk)): file.read_bytes()
        for file in sorted(disk.rglob("*"))
        if file.is_file() and file.name != FILLER
    }
