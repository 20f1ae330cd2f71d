"""Cached frozen features: what a frozen prefix gives for photos, computed once per view, shared by trials and runs.

A store has room for one view of some photos; for training, of all photos, so that every split of the people shares it.
It fills photo by photo, as they are drawn: nothing is computed before it is needed, and nothing twice. A process that
needs a missing row claims it and computes it. One that needs a row which another process computes first takes rows that
nobody has claimed, then waits.

The cache belongs on a disk of the machine: over a network, machines that write neighbouring rows may undo each other's.

Shapes: n photos of a store, m positions at a time; a row is one photo's features, (h, w, c), (t, d) or (n_features,).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskcls.errors import RunError
from maskcls.files import write_atomically
from maskcls.stores.arrays import FORBIDDEN, MANIFEST, StoreInfo, Stores, building_folder, gb, unchecked
from maskcls.stores.cache_options import DEFAULT_GB

log = logging.getLogger("maskcls")

Integers = NDArray[np.int64]

FEATURES, CHECKSUMS, CLAIMS = "features.bin", "checksums.u32", "claims"
"""A store's files beside its manifest: the rows; each row's CRC-32, 0 if it is missing; one byte to lock per row."""
WAIT_S = 60.0
"""How long to wait for another process to compute a block of rows; many times what that takes."""
_POLL_S = 0.02


def stores(cache: Path) -> Stores:
    """The feature stores of a cache."""
    instead = "freeze more stages, or choose fewer views"
    return Stores(cache / "features", FEATURES, "frozen features", "--feature-store-gb", instead, unchecked)


@dataclass(frozen=True)
class Key:
    """What a store's numbers depend on, and their layout.

    Args:
        parts: all that the numbers depend on, by name; a change in any of them makes another store.
        n: photos that the store has room for.
        shape: of one photo's features as stored, channels last.
        dtype: float32 or bfloat16.
    """

    parts: Mapping[str, Any]
    n: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def digest(self) -> str:
        """24 hex digits, the same in every process."""
        parts = {**self.parts, "n": self.n, "shape": self.shape, "dtype": str(self.dtype)}
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def n_bytes(self) -> int:
        """Size of the rows' file, n rows whether they are there or not."""
        return self.n * int(np.prod(self.shape)) * np.dtype(stored_type(self.dtype)).itemsize

    @property
    def source(self) -> str:
        """What the features are of, for people: backbone, stages and view."""
        return " ".join(str(self.parts[name]) for name in ("backbone", "stages", "view") if name in self.parts)


class FeatureStore:
    """One key's features, of as many photos as have been drawn so far. While this object lives, nobody removes them.

    A row's checksum is written after the row, so a process that is killed while it writes leaves no checksum. A row is
    compared with its checksum when a process first asks for it; a damaged one counts as missing.
    """

    def __init__(self, folder: Path, key: Key, rows: NDArray[Any]) -> None:
        """`rows` (n, *shape) are the store's file, mapped read-only."""
        self.folder = folder
        # (n, *shape) and (n,) uint32; both are shared maps, in which rows that other processes write show up, too.
        self._rows, self._checksums = rows, np.memmap(folder / CHECKSUMS, np.uint32, "r", shape=(key.n,))
        self._right = np.zeros(key.n, bool)  # (n,) rows that this process has found to match their checksums
        self._warned = False
        self._row_bytes = rows[0].nbytes
        self._files = _for_writing(folder)
        # Left open, the files would be closed by the garbage collector, which warns.
        weakref.finalize(self, _close, list(self._files.values()))

    @property
    def takes_rows(self) -> bool:
        """Whether it may be written; in a read-only cache it serves the rows that it has."""
        return bool(self._files)

    @property
    def removed(self) -> bool:
        """Whether another process found it damaged and removed it, so that what is written here is lost."""
        # An open file without a name has no links.
        return self.takes_rows and os.fstat(self._files[CHECKSUMS].fileno()).st_nlink == 0

    def lacks(self, positions: Integers) -> NDArray[np.bool_]:
        """For each position (m,), whether its row is missing: (m,) bool."""
        unseen = positions[~self._right[positions]]  # (j,) that this process has not compared yet
        for position in unseen[self._checksums[unseen] != 0].tolist():
            self._right[position] = _checksum(self._rows[position]) == self._checksums[position]
            if not self._right[position] and not self._warned:
                log.warning("Frozen features in %s are damaged and are computed again.", self.folder)
                self._warned = True
        missing: NDArray[np.bool_] = ~self._right[positions]
        return missing

    def copy(self, positions: Integers, into: NDArray[Any], at: Integers) -> None:
        """Copy the rows at these positions (m,), none of them missing, to the rows `at` (m,) of the array `into`."""
        for position, row in zip(positions.tolist(), at.tolist(), strict=True):
            into[row] = self._rows[position]

    def write(self, position: int, row: NDArray[Any]) -> None:
        """Store a row; its checksum is written last."""
        _write(
            self._files[FEATURES].fileno(),
            np.ascontiguousarray(row).reshape(-1).view(np.uint8).data,  # bytes, in which `_write` counts
            position * self._row_bytes,
        )
        _write(self._files[CHECKSUMS].fileno(), np.uint32(_checksum(row)).tobytes(), position * 4)
        self._right[position] = True

    def claim(self, position: int) -> bool:
        """Claim a row to compute it; False if another process has. A claim ends with its process at the latest."""
        try:  # a lock on one byte, released by the kernel when the process dies
            fcntl.lockf(self._files[CLAIMS], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
        except (BlockingIOError, PermissionError):  # which one depends on the system (fcntl(2))
            return False
        return True

    def release(self, position: int) -> None:
        """End the claim on a row."""
        fcntl.lockf(self._files[CLAIMS], fcntl.LOCK_UN, 1, position)

    def wait(self, position: int) -> bool:
        """Wait until nobody claims the row; False if that takes longer than WAIT_S, as for a suspended process."""
        until = time.monotonic() + WAIT_S
        while not self.claim(position):
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        self.release(position)  # it was claimed only to see that nobody else had it
        return True


def fill(wanted: Sequence[tuple[FeatureStore, int]], compute: Callable[[list[int]], Tensor], block: int) -> None:
    """Fill these (store, position), each computed by one process; what another process does not finish stays missing.

    Args:
        compute: numbers (m,), indices into `wanted` -> features (m, ...); m is at most `block`.
    """
    left = list(range(len(wanted)))
    while left := [number for number in left if _lacks(*wanted[number])]:
        mine: list[int] = []
        try:
            # Lazily, so that no row beyond the block is claimed: those stay free for other processes. If a claim fails,
            # the rows before it are in `mine` already, and are released below.
            mine.extend(islice((number for number in left if wanted[number][0].claim(wanted[number][1])), block))
            # Between the look and the claim another process may have computed some of them.
            todo = [number for number in mine if _lacks(*wanted[number])]
            for number, row in zip(todo, as_rows(compute(todo)) if todo else (), strict=True):
                store, position = wanted[number]
                store.write(position, row)
        finally:
            for number in mine:
                wanted[number][0].release(wanted[number][1])
        # Nothing was free to claim: wait for the first of the others' rows, then look again.
        if not mine and not wanted[left[0]][0].wait(wanted[left[0]][1]):
            return  # its owner may be suspended: the caller computes what is missing


@dataclass(frozen=True)
class FeatureStores:
    """Where features are cached.

    Args:
        cache: the folder.
        budget_gb: bound on all feature stores in it, GB.
        shared: whether other fits will want the same features, so that stores pay even if no view is drawn twice.
    """

    cache: Path
    budget_gb: float = DEFAULT_GB
    shared: bool = False

    @property
    def kind(self) -> Stores:
        """All feature stores of the cache."""
        return stores(self.cache)

    def refusal(self, n_bytes: int, drawn: int, distinct: int) -> str:
        """Why stores of so many bytes should not be made; "" if they should.

        Args:
            n_bytes: of all the fit's stores.
            drawn: photos that the fit draws, in all epochs.
            distinct: how many different (photo, view) are among them.
        """
        if n_bytes > self.budget_gb * 1e9:
            return f"they would take {gb(n_bytes)}, and --feature-store-gb allows {self.budget_gb:g} GB"
        if drawn <= distinct and not self.shared:
            return f"they would not pay: of {drawn:,} draws none comes twice, and no other fit is known to share them"
        return ""

    def holds(self, key: Key) -> bool:
        """Whether there is a store for the key."""
        return (self.kind.folder / key.digest).exists()

    def open(self, key: Key) -> FeatureStore:
        """The key's store, made empty if there was none. Raises OSError or RunError if the cache can't take it."""
        folder = self.kind.folder / key.digest
        here = _open_here.get(folder)
        if here is not None and not here.removed:
            return here
        rows = self._rows(folder, key)
        # The lock needs a cache that can be written, so it is not taken where the store is there already.
        if rows is None:
            self.kind.folder.mkdir(parents=True, exist_ok=True)
            with self.kind.room_lock():  # whoever removes a store to make room holds it, too
                rows = self._rows(folder, key)
                # Another process may have made it while this one waited for the lock.
                if rows is None:
                    self._make(folder, key)
                    rows = self._rows(folder, key)
        if rows is None:
            raise RunError(f"the store {folder} is not what was written a moment ago")
        _open_here[folder] = store = FeatureStore(folder, key, rows)
        return store

    def _rows(self, folder: Path, key: Key) -> NDArray[Any] | None:
        """The rows' file (n, *shape), mapped; None if there is none, or if a file of the store has a wrong size."""
        try:
            sizes = {name: (folder / name).stat().st_size for name in (CHECKSUMS, CLAIMS)}
        except FileNotFoundError:
            return None
        if sizes != {CHECKSUMS: 4 * key.n, CLAIMS: 0}:  # the rows' own file is checked by `Stores.open`
            return None
        return self.kind.open(folder, (key.n, *key.shape), stored_type(key.dtype))

    def _make(self, folder: Path, key: Key) -> None:
        """Make an empty store, whole or not at all, of its full size on disk. Raises RunError if there is no room."""
        if folder.exists():
            log.warning("Frozen features in %s are damaged and are computed again.", folder)
            # Before room is made, because the damaged store would count.
            self.kind.discard(folder)
        self.kind.make_room(folder, key.n_bytes, self.budget_gb)
        building = building_folder(folder)
        manifest = {
            "shape": (key.n, *key.shape),
            "bytes": key.n_bytes,
            "checksum": 0,  # as `unchecked` gives it: each row has a checksum of its own
            "source": key.source,
            "parts": dict(key.parts),
        }
        try:
            building.mkdir(exist_ok=True)
            self.kind.reserve(folder, key.n_bytes)
            (building / CHECKSUMS).write_bytes(bytes(4 * key.n))  # (n,) uint32 zeros: every row is missing
            (building / CLAIMS).touch()  # stays empty: a lock may lie beyond a file's end
            write_atomically(building / MANIFEST, json.dumps(manifest, indent=2, default=str))
            building.rename(folder)  # last: a folder of this name is whole
        finally:
            shutil.rmtree(building, ignore_errors=True)


def list_stores(cache: Path) -> list[StoreInfo]:
    """The feature stores of a cache, most recently used first, with how many photos they hold by now."""
    kind = stores(cache)
    return [replace(info, held=_held(kind.folder / info.name)) if info.shape else info for info in kind.infos()]


def prune(cache: Path, budget_gb: float) -> list[StoreInfo]:
    """Remove feature stores, least recently used first, until the rest fits the budget; those in use stay.

    Args:
        budget_gb: GB.

    Returns the removed ones.
    """
    return stores(cache).prune(budget_gb)


def stored_type(dtype: torch.dtype) -> type[np.generic]:
    """The numpy type of stored features: numpy has no bfloat16, so its bits are stored as uint16."""
    return np.uint16 if dtype == torch.bfloat16 else np.float32


def as_tensor(rows: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Rows (m, *shape), copied out of a store, as features that the rest of the model takes.

    Maps (m, h, w, c) become (m, c, h, w) in channels_last memory; others keep their shape.
    """
    tensor = torch.from_numpy(rows)
    tensor = tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor  # the same bits
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def as_rows(features: Tensor) -> NDArray[Any]:
    """Features (m, ...) as rows (m, *shape) of a store: the inverse of `as_tensor`."""
    rows = features.permute(0, 2, 3, 1) if features.ndim == 4 else features  # (m, c, h, w) -> (m, h, w, c)
    rows = rows.contiguous().cpu()  # maps in channels_last memory are contiguous here: no copy
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


_open_here: weakref.WeakValueDictionary[Path, FeatureStore] = weakref.WeakValueDictionary()
"""Stores that are open in this process: a second one would end the first one's claims when it is closed (fcntl(2))."""


def _for_writing(store: Path) -> dict[str, FileIO]:
    """The store's files by name, without the manifest; none of them if writing is forbidden."""
    try:
        return {name: FileIO(store / name, "r+") for name in (FEATURES, CHECKSUMS, CLAIMS)}
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        return {}


def _close(files: list[FileIO]) -> None:
    for file in files:
        file.close()


def _lacks(store: FeatureStore, position: int) -> bool:
    return bool(store.lacks(np.array([position]))[0])


def _checksum(row: NDArray[Any]) -> int:
    """CRC-32 of a row's bytes; never 0, which says that the row is missing."""
    return zlib.crc32(np.ascontiguousarray(row).reshape(-1).view(np.uint8).data) or 1


def _write(descriptor: int, content: bytes | memoryview, at: int) -> None:
    """Write all of the content at this offset, in bytes: one call may write less than it is given."""
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written


def _held(store: Path) -> int:
    """How many rows the store holds."""
    try:
        return int(np.count_nonzero(np.fromfile(store / CHECKSUMS, np.uint32)))
    except OSError:
        return 0
