"""Whether a worker was killed because memory was short: it leaves a note while it works, which the next one reads.

A process that is killed can say nothing. The kernel counts whom it has killed for memory; where Ray's memory monitor
killed, the driver is informed. Either way the fit goes on in micro-batches of half the size, as after an error of torch
that memory is short.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from maskcls.errors import Damaged
from maskcls.files import FileKind, write_atomically
from maskcls.machine import memory_groups, memory_kills
from tune.runs.joined_ray.nodes_aside import node_here

NOTE = "attempt.json"
"""In the fit's folder, as long as a worker is at work on it; it stays where the worker is killed."""
_NOTE_FILE = FileKind("a note of a worker's attempt at a fit: a JSON object", "Remove it.", most_bytes=10_000)
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ME = uuid.uuid4().hex
"""This process among all that may ever work on a fit, on any machine."""
_ours: set[Path] = set()
"""Folders of the fits at which this process is at work."""
_puts: dict[Path, Callable[[], object]] = {}
"""By a fit's folder, what this process calls when its note there has changed."""
log = logging.getLogger(__name__)
_RAY_SAYS = ("running low on memory", "OutOfMemoryError")


@dataclass(frozen=True)
class Attempt:
    """A worker's attempt at a fit."""

    counter: str = ""
    """Which counter of the kernel's `kills` is from: it begins again with the machine and with the control group."""
    kills: int = 0
    """Of `maskcls.machine.memory_kills` when the attempt began."""
    micro_batch: int = 0
    """Photos that go through a model at once; 0: it has not come to training."""
    most: int = 0
    """The largest micro-batch that may be tried, because a larger one did not fit; 0: any."""
    killed: int = 0
    """How many attempts before this one were ended because memory was short."""
    by_ray: bool = False
    """Whether Ray's memory monitor has ended it."""
    worker: str = ""
    """The process that is at work; "" in notes of earlier versions."""
    node: str = ""
    """The node of Ray that it works on; "" outside Ray."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The attempt that is noted in a fit's folder; None without a note, or with a damaged one."""
        file = folder / NOTE
        try:
            with _NOTE_FILE.reading(file):
                noted = _NOTE_FILE.read_object(file)
                return cls(
                    str(noted["counter"]),
                    int(noted["kills"]),
                    micro_batch=int(noted["micro_batch"]),
                    most=int(noted["most"]),
                    killed=int(noted["killed"]),
                    by_ray=bool(noted["by_ray"]),
                    worker=str(noted.get("worker", "")),
                    node=str(noted.get("node", "")),
                )
        except Damaged:  # or missing
            return None

    def write(self, folder: Path) -> None:
        """Note the attempt in the fit's folder."""
        # Need not outlast a failure of the machine itself, after which the kernel counts from 0 again.
        write_atomically(folder / NOTE, json.dumps(asdict(self)) + "\n", wait=False)

    @property
    def was_short(self) -> bool:
        """Whether memory was short, of an attempt whose process is gone."""
        return self.by_ray or (self.counter == _counter() and memory_kills() > self.kills)


def _counter() -> str:
    """Name the kernel's counter that `memory_kills` reads here."""
    boot = _BOOT.read_text().strip() if _BOOT.exists() else os.uname().nodename
    return f"{boot} {next(iter(memory_groups()), '')}"


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Note an attempt at the fit in this folder as long as the block runs, which the process may not survive."""
    earlier = Attempt.read(folder)
    attempt = Attempt(_counter(), memory_kills(), worker=_ME, node=node_here())
    if earlier is not None and earlier.was_short:
        most = halved(earlier.micro_batch) or earlier.most
        attempt = replace(attempt, most=most, killed=earlier.killed + 1)
    elif earlier is not None:
        attempt = replace(attempt, most=earlier.most)
    attempt.write(folder)
    _has_changed(folder)
    _ours.add(folder)
    try:
        yield
    finally:
        if not _is_superseded(folder):
            forget(folder)
            _has_changed(folder)
        _ours.discard(folder)


@contextmanager
def noted_elsewhere(folder: Path, put: Callable[[], object]) -> Iterator[None]:
    """Within the block, call `put` whenever this process has changed its note of the fit in this folder.

    Where the run is kept in a storage, the note has to be there before the worker can be killed: the driver and the
    next worker may be on other machines.
    """
    _puts[folder] = put
    try:
        yield
    finally:
        del _puts[folder]


def _has_changed(folder: Path) -> None:
    if folder in _puts:
        _puts[folder]()


def exit_if_superseded(folder: Path) -> None:
    """End this process, before it writes more, if another worker has begun an attempt at the same fit.

    A machine that was cut off from the cluster is given up there, and its fit begun on another one, while the worker
    goes on and may still see the run's folder.
    """
    if _is_superseded(folder):
        _exit(folder)


def exit_if_followed(folder: Path, noted: Mapping[str, object]) -> None:
    """The same by a note of the fit that lies elsewhere, as in the run's storage; {} where there is none.

    To be called when this process's own note is known to have been put there.
    """
    if folder in _ours and _is_anothers(noted.get("worker", "")):
        _exit(folder)


def _exit(folder: Path) -> None:
    log.error("Another worker has taken over the fit in %s, so this one ends.", folder)
    os._exit(1)


def _is_superseded(folder: Path) -> bool:
    attempt = Attempt.read(folder) if folder in _ours else None
    return attempt is not None and _is_anothers(attempt.worker)


def _is_anothers(worker: object) -> bool:
    return worker not in ("", _ME)


def note_micro_batch(folder: Path, micro_batch: int) -> None:
    """Note with which micro-batch the attempt goes on, if one is noted."""
    attempt = Attempt.read(folder)
    if attempt is not None:
        replace(attempt, micro_batch=micro_batch).write(folder)
        _has_changed(folder)


def note_ray_killed(folder: Path, said: str) -> None:
    """Note that Ray's memory monitor has ended the fit's worker, if that is what Ray says of it."""
    if any(words in said for words in _RAY_SAYS):
        attempt = Attempt.read(folder) or Attempt()
        # Noted twice: the worker after the first one was killed before it had come to note anything.
        folder.mkdir(parents=True, exist_ok=True)
        replace(attempt, by_ray=True, killed=attempt.killed + attempt.by_ray).write(folder)


def times_killed(folder: Path) -> int:
    """Count the attempts in a row at the fit that were ended because memory was short; no worker may be at it."""
    attempt = Attempt.read(folder)
    if attempt is None:
        return 0
    if attempt.was_short:
        return attempt.killed + 1
    # Of another node nothing is known here but of those attempts that were followed by one there.
    return 0 if attempt.counter == _counter() else attempt.killed


def killed_for_memory(folder: Path) -> str:
    """Why the fit's worker is gone, as a message, if memory was short in its last attempt or in one before; else "".

    To be asked when no worker is at work on it.
    """
    attempt, times = Attempt.read(folder), times_killed(folder)
    if attempt is None or not times:
        return ""
    by = "Ray, because the machine's memory was nearly used up" if attempt.by_ray else "the system, for want of memory"
    how_often = "once" if times == 1 else f"{times} times"
    last = f", the last time in micro-batches of {attempt.micro_batch}" if attempt.micro_batch else ""
    return f"The worker was killed {how_often} by {by}{last}. Less --parallel leaves more memory to each."


def forget(folder: Path) -> None:
    """Remove the note of an attempt that has come to an end, whatever end that is."""
    (folder / NOTE).unlink(missing_ok=True)


def halved(micro_batch: int) -> int:
    """Half of it, rounded up."""
    return -(-micro_batch // 2)
