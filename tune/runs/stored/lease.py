"""Lease: the note in the storage that says which driver works on a run, and expires when that driver is gone.

Object stores have no locks. A driver writes the note again every RENEWED_S; one that stays as it is for EXPIRES_S is of
a driver that is gone, and another may take the run over. Only the waiting driver's own clock counts. What remains
possible: a driver that was stopped for longer than EXPIRES_S (a machine that slept, a network that was cut) and goes on
finds another's note at its next renewal and ends; what it put into the storage in between, at most RENEWED_S long, may
lie over what the other has put.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from maskcls.errors import OutOfReach, RunError
from maskcls.machine import process_space
from maskcls.storage.store import START_S, Store
from tune.runs.session import say

LEASE = "lease.json"
RENEWED_S, EXPIRES_S = 15.0, 60.0
_SETTLES_S = 1.0
"""How long a driver waits to see whether another one has taken the run at the same moment."""
_LOOK_S = 2.0


class TakenOver(RunError):  # noqa: N818 - what happened
    """Another driver works on the run by now."""


@dataclass
class Lease:
    """A driver's hold on a run in the storage."""

    store: Store
    """The run's place."""
    owner: str = field(default_factory=lambda: secrets.token_hex(8))
    wrote: str = ""
    """Which driver has put files of the run there last."""
    is_new: bool = True
    """Whether the storage had no such run."""
    lost: str = ""
    """Why the run is no longer held: another driver has taken it over."""
    _renewals: int = 0
    _ends: threading.Event = field(default_factory=threading.Event)

    def keep(self) -> None:
        """Write the note again and again, until `end` is called or another driver has taken the run over."""
        store = self.store.trying(0.0)
        while not self._ends.wait(RENEWED_S):
            with suppress(OutOfReach):  # what is put there meets that as well, and says it
                found = store.read_json(LEASE)
                if found.get("owner", self.owner) != self.owner:
                    self.lost = (
                        f"Another driver has taken over {store}: {_whom(found)}. This one was out of touch for too "
                        "long, and ends; the other one goes on with what was in the storage."
                    )
                    return
                self._write(store)

    def _write(self, store: Store, *, ended: bool = False) -> None:
        self._renewals += 1
        who = {"owner": self.owner, "machine": socket.gethostname(), "pid": os.getpid(), "pids_of": process_space()}
        store.put_json(LEASE, {**who, "renewals": self._renewals, "wrote": self.wrote, "ended": ended})

    def take(self, expires_s: float) -> None:
        """Take the run. Raises RunError where another driver holds it."""
        found = self.store.read_json(LEASE)
        if found and not found.get("ended") and not _is_dead_here(found):
            self._wait_until_expired(found, expires_s)
        self.wrote = str(found.get("wrote", ""))
        self._write(self.store)
        time.sleep(_SETTLES_S)  # of a new run as well: the same command may have been given twice
        now = self.store.read_json(LEASE)
        if now.get("owner") != self.owner:
            raise _held(self.store, now)

    def _wait_until_expired(self, found: dict[str, object], expires_s: float) -> None:
        began = time.monotonic()
        say(
            f"{self.store} is held by {_whom(found)}. If that driver is gone, this one takes over in {expires_s:.0f} s."
        )
        while time.monotonic() - began < expires_s:
            time.sleep(min(_LOOK_S, expires_s / 4))
            now = self.store.read_json(LEASE)
            if now.get("ended"):
                return
            if now != found:
                raise _held(self.store, now)

    def begin_to_write(self) -> None:
        """Note that this driver puts files of the run from now on. Raises OutOfReach."""
        self.wrote = self.owner
        self._write(self.store)

    def end(self, keeping: threading.Thread) -> None:
        """Let the next driver take the run at once.

        Args:
            keeping: runs `keep`. Its last renewal is waited for: written after the end, it would hold the run.
        """
        self._ends.set()
        keeping.join()
        with suppress(OutOfReach):
            if self.store.read_json(LEASE).get("owner") == self.owner:
                self._write(self.store, ended=True)


@contextmanager
def held(store: Store, *, expires_s: float = EXPIRES_S) -> Iterator[Lease]:
    """Hold a run in the storage as its only driver. Raises RunError where another one does, or it is out of reach.

    Args:
        store: the run's place.
    """
    lease = Lease(store.trying(START_S, at_start=True))
    try:
        lease.take(expires_s)
    except OutOfReach as error:
        raise RunError(f"{error} Nothing was begun.") from None
    keeping = threading.Thread(target=lease.keep, name="lease", daemon=True)
    keeping.start()
    try:
        yield lease
    finally:
        lease.end(keeping)


def _is_dead_here(found: dict[str, object]) -> bool:
    """Whether the note is of a process of this machine, or container, that is gone. Their names need not differ."""
    pid, here = found.get("pid"), process_space()
    if not here or found.get("pids_of") != here or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _held(store: Store, found: dict[str, object]) -> RunError:
    return RunError(
        f"Another driver is working on {store}: {_whom(found)}. Wait for it, or end it, and try again. Nothing was "
        "begun."
    )


def _whom(found: dict[str, object]) -> str:
    return f"process {found.get('pid')} on {found.get('machine')}"
