"""Frozen features, kept: what a frozen prefix gives for the photos of a run, once for each view, on disk, for all trials and runs.

A store has room for one view of some photos: all there are, for training, so that every split of the people shares it. It fills photo by
photo, as they are drawn: nothing is computed that nobody asked for, and nothing twice. Whoever wants a photo that is not there claims it
and computes it; who wants what another process computes takes what nobody has claimed yet, then waits.

The cache is meant to lie on a disk of the machine: over a network, machines that write neighbouring rows may undo each other's.
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
from maskcls.stores.arrays import DEFAULT_GB, FORBIDDEN, MANIFEST, StoreInfo, Stores, building_folder, gb, unchecked

log = logging.getLogger("maskcls")

Integers = NDArray[np.int64]

FEATURES, CHECKSUMS, CLAIMS = "features.bin", "checksums.u32", "claims"
"""A store's files beside its manifest: the rows; the CRC-32 of each, 0 where it has not been computed; bytes to lock, one a row."""
WAIT_S = 60.0
"""For another process to compute a block of rows; many times what that takes."""
_LOOK_S = 0.02


def stores(cache: Path) -> Stores:
    """The feature stores of a cache."""
    instead = "freeze more stages, or choose fewer views"
    return Stores(cache / "features", FEATURES, "frozen features", "--feature-store-gb", instead, unchecked)


@dataclass(frozen=True)
class Key:
    """What a store's numbers hang on, and how they lie.

    Args:
        parts: by name; every one of them counts.
        n: photos.
        shape: of a photo's features, as they lie: channels last.
        dtype: float32 or bfloat16.
    """

    parts: Mapping[str, Any]
    n: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def digest(self) -> str:
        """24 hex digits, the same in every process."""
        told = json.dumps(
            {**self.parts, "n": self.n, "shape": self.shape, "dtype": str(self.dtype)}, sort_keys=True, default=str
        )
        return hashlib.sha256(told.encode()).hexdigest()[:24]

    @property
    def n_bytes(self) -> int:
        return self.n * int(np.prod(self.shape)) * np.dtype(stored_type(self.dtype)).itemsize

    @property
    def source(self) -> str:
        """For people to read."""
        return " ".join(str(self.parts[name]) for name in ("backbone", "stages", "view") if name in self.parts)


class FeatureStore:
    """One key's features, of as many photos as have been drawn so far. As long as this object lives nobody removes them.

    A row's checksum is written after the row, so a process that is killed amid one leaves none; a row is compared with its checksum when a
    process first asks for it, and one that is damaged counts as not there.
    """

    def __init__(self, folder: Path, key: Key, rows: NDArray[Any]) -> None:
        """`rows` (n, *shape) are the store's file, mapped read-only."""
        self.folder = folder
        self._rows, self._checksums = rows, np.memmap(folder / CHECKSUMS, np.uint32, "r", shape=(key.n,))
        self._right = np.zeros(key.n, bool)
        self._told = False
        self._row_bytes = rows[0].nbytes
        self._files = _for_writing(folder)
        weakref.finalize(self, _close, list(self._files.values()))

    @property
    def takes_rows(self) -> bool:
        """Whether it may be written; in a cache that is only there to read it serves what it has."""
        return bool(self._files)

    @property
    def removed(self) -> bool:
        """Whether another process found it damaged, so that others will not find what is written here."""
        return self.takes_rows and os.fstat(self._files[CHECKSUMS].fileno()).st_nlink == 0

    def lacks(self, positions: Integers) -> NDArray[np.bool_]:
        """Of each position (m,) whether its row is not there."""
        unseen = positions[~self._right[positions]]
        for position in unseen[self._checksums[unseen] != 0].tolist():
            self._right[position] = _checksum(self._rows[position]) == self._checksums[position]
            if not self._right[position] and not self._told:
                log.warning("Frozen features in %s are damaged: they are computed anew.", self.folder)
                self._told = True
        missing: NDArray[np.bool_] = ~self._right[positions]
        return missing

    def copy(self, positions: Integers, into: NDArray[Any], at: Integers) -> None:
        """Rows that are there, to these rows of another array."""
        for position, row in zip(positions.tolist(), at.tolist(), strict=True):
            into[row] = self._rows[position]

    def write(self, position: int, row: NDArray[Any]) -> None:
        """Keep a row."""
        _write(
            self._files[FEATURES].fileno(),
            np.ascontiguousarray(row).reshape(-1).view(np.uint8).data,
            position * self._row_bytes,
        )
        _write(self._files[CHECKSUMS].fileno(), np.uint32(_checksum(row)).tobytes(), position * 4)
        self._right[position] = True

    def claim(self, position: int) -> bool:
        """Take it on to compute a row; False where another process has. A claim ends with its process at the latest."""
        try:
            fcntl.lockf(self._files[CLAIMS], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, position: int) -> None:
        fcntl.lockf(self._files[CLAIMS], fcntl.LOCK_UN, 1, position)

    def wait(self, position: int) -> bool:
        """Until nobody has claimed the row; False where that does not come about (its process was suspended)."""
        until = time.monotonic() + WAIT_S
        while not self.claim(position):
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_S)
        self.release(position)
        return True


def fill(wanted: Sequence[tuple[FeatureStore, int]], compute: Callable[[list[int]], Tensor], block: int) -> None:
    """See that these (store, position) are there; each is computed by one process. Those that another one does not come to an end with are
    left.

    Args:
        compute: numbers (m,) of `wanted`, m at most `block` -> their features, m rows.
    """
    left = list(range(len(wanted)))
    while left := [number for number in left if _lacks(*wanted[number])]:
        mine: list[int] = []
        try:
            mine.extend(islice((number for number in left if wanted[number][0].claim(wanted[number][1])), block))
            todo = [
                number for number in mine if _lacks(*wanted[number])
            ]  # else another process did it before the claim
            for number, row in zip(todo, as_rows(compute(todo)) if todo else (), strict=True):
                store, position = wanted[number]
                store.write(position, row)
        finally:
            for number in mine:
                wanted[number][0].release(wanted[number][1])
        if not mine and not wanted[left[0]][0].wait(wanted[left[0]][1]):
            return


@dataclass(frozen=True)
class FeatureStores:
    """Where features are kept, up to how many GB, and whether other fits will want the same ones."""

    cache: Path
    budget_gb: float = DEFAULT_GB
    shared: bool = False

    @property
    def kind(self) -> Stores:
        return stores(self.cache)

    def refusal(self, n_bytes: int, drawn: int, unlike: int) -> str:
        """Why stores of so many bytes are not to be made; "" where they are.

        Args:
            drawn: photos that the fit draws.
            unlike: how many of them are different, counting a photo's views.
        """
        if n_bytes > self.budget_gb * 1e9:
            return f"they would take {gb(n_bytes)}, and --feature-store-gb allows {self.budget_gb:g} GB"
        if drawn <= unlike and not self.shared:
            return f"they would not pay: of {drawn:,} draws none comes twice, and no other fit is known to share them"
        return ""

    def holds(self, key: Key) -> bool:
        """Whether there is a store for the key."""
        return (self.kind.folder / key.digest).exists()

    def open(self, key: Key) -> FeatureStore:
        """The key's store, an empty one where there was none. Raises OSError or RunError where the cache can't take it."""
        folder = self.kind.folder / key.digest
        here = _open_here.get(folder)
        if here is not None and not here.removed:
            return here
        rows = self._rows(folder, key)
        if rows is None:
            self.kind.folder.mkdir(parents=True, exist_ok=True)
            with self.kind.room_lock():  # who removes a store to make room holds it, too
                rows = self._rows(folder, key)
                if rows is None:
                    self._make(folder, key)
                    rows = self._rows(folder, key)
        if rows is None:
            raise RunError(f"the store {folder} is not what was written a moment ago")
        _open_here[folder] = store = FeatureStore(folder, key, rows)
        return store

    def _rows(self, folder: Path, key: Key) -> NDArray[Any] | None:
        """The features' file, mapped; None where there is none, or where a file of the store is not as it should be."""
        try:
            sizes = {name: (folder / name).stat().st_size for name in (CHECKSUMS, CLAIMS)}
        except FileNotFoundError:
            return None
        if sizes != {CHECKSUMS: 4 * key.n, CLAIMS: 0}:
            return None
        return self.kind.open(folder, (key.n, *key.shape), stored_type(key.dtype))

    def _make(self, folder: Path, key: Key) -> None:
        """An empty store, whole or not at all; the disk space is taken now. Raises RunError where there is no room."""
        if folder.exists():
            log.warning("Frozen features in %s are damaged: they are computed anew.", folder)
            self.kind.discard(folder)
        self.kind.make_room(folder, key.n_bytes, self.budget_gb)
        building = building_folder(folder)
        manifest = {
            "shape": (key.n, *key.shape),
            "bytes": key.n_bytes,
            "checksum": 0,
            "source": key.source,
            "parts": dict(key.parts),
        }
        try:
            building.mkdir(exist_ok=True)
            self.kind.reserve(folder, key.n_bytes)
            (building / CHECKSUMS).write_bytes(bytes(4 * key.n))
            (building / CLAIMS).touch()
            write_atomically(building / MANIFEST, json.dumps(manifest, indent=2, default=str))
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def list_stores(cache: Path) -> list[StoreInfo]:
    """The feature stores of a cache, most recently used first, with how many photos they hold by now."""
    kind = stores(cache)
    return [replace(info, held=_held(kind.folder / info.name)) if info.shape else info for info in kind.infos()]


def prune(cache: Path, budget_gb: float) -> list[StoreInfo]:
    """Remove feature stores, least recently used first, until the rest fits the budget, GB; those in use stay. Returns the removed ones."""
    return stores(cache).prune(budget_gb)


def stored_type(dtype: torch.dtype) -> type[np.generic]:
    """numpy has no bfloat16."""
    return np.uint16 if dtype == torch.bfloat16 else np.float32


def as_tensor(rows: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """Rows of a store, copied out of it, as the rest of the model takes them: maps (b, c, h, w) in channels_last memory."""
    tensor = torch.from_numpy(rows)
    tensor = tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def as_rows(features: Tensor) -> NDArray[Any]:
    """The other way round."""
    lying = features.permute(0, 2, 3, 1) if features.ndim == 4 else features
    lying = lying.contiguous().cpu()
    return lying.view(torch.uint16).numpy() if lying.dtype == torch.bfloat16 else lying.numpy()


_open_here: weakref.WeakValueDictionary[Path, FeatureStore] = weakref.WeakValueDictionary()
"""Stores that are open in this process: a second one would end the first one's claims when it is closed (fcntl(2))."""


def _for_writing(store: Path) -> dict[str, FileIO]:
    """The store's files by name, but for the manifest; none of them where writing is forbidden."""
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
    """CRC-32 of its bytes; never 0, which says that there is no row."""
    return zlib.crc32(np.ascontiguousarray(row).reshape(-1).view(np.uint8).data) or 1


def _write(descriptor: int, content: bytes | memoryview, at: int) -> None:
    """All of it: one call may write less than it is given."""
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written


def _held(store: Path) -> int:
    try:
        return int(np.count_nonzero(np.fromfile(store / CHECKSUMS, np.uint32)))
    except OSError:
        return 0
