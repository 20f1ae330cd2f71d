"""Frozen features, kept: what a frozen prefix gives for the photos of a run, once for each view, on disk, for all trials and runs.

A store holds one view of the photos of the training and the validation people, so that folds and repeats share it with the search. Whoever
wants one that is not there builds it, together with all others who want it: photos are dealt out in chunks, each of which one process
computes, and a chunk whose process was killed is computed by another. A store appears whole or not at all.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskcls.errors import RunError
from maskcls.files import write_atomically
from maskcls.stores import DEFAULT_GB, MANIFEST, WRITE_ERRORS, StoreInfo, Stores, building_folder, gb, read_manifest

log = logging.getLogger("maskcls")

FEATURES = "features.bin"
CHUNK = 128
"""Photos that one process computes at a time: seconds of work, a multiple of every block."""
_LOOK_S = 0.05

Compute = Callable[[NDArray[np.int64]], Tensor]
"""Positions (m,) among a store's photos -> their features, m rows."""


def whole_checksum(array: NDArray[Any]) -> int:
    """CRC-32 of all bytes."""
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def stores(cache: Path) -> Stores:
    """The feature stores of a cache."""
    return Stores(
        cache / "features", FEATURES, "frozen features", "--feature-store-gb", "freeze more stages, or choose fewer views", whole_checksum
    )


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
        told = json.dumps({**self.parts, "n": self.n, "shape": self.shape, "dtype": str(self.dtype)}, sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:24]

    @property
    def stored_type(self) -> type[np.generic]:
        """numpy has no bfloat16."""
        return np.uint16 if self.dtype == torch.bfloat16 else np.float32

    @property
    def n_bytes(self) -> int:
        return self.n * int(np.prod(self.shape)) * np.dtype(self.stored_type).itemsize

    @property
    def source(self) -> str:
        """For people to read."""
        return " ".join(str(self.parts[name]) for name in ("backbone", "stages", "view") if name in self.parts)


@dataclass(frozen=True)
class FeatureStores:
    """Where features are kept, up to how many GB, and whether other fits will want the same ones.

    Where the cache cannot take them, that is said once, and fits go on without.
    """

    cache: Path
    budget_gb: float = DEFAULT_GB
    shared: bool = False

    @property
    def kind(self) -> Stores:
        return stores(self.cache)

    def refusal(self, n_bytes: int, drawn: int, computed: int) -> str:
        """Why stores of so many bytes are not to be made; "" where they are.

        Args:
            drawn: photos that go through the prefix in the fit without them.
            computed: photos that go through it to build them.
        """
        if n_bytes > self.budget_gb * 1e9:
            return f"they would take {gb(n_bytes)}, and --feature-store-gb allows {self.budget_gb:g} GB"
        if computed > drawn and not self.shared:
            return f"they would not pay: {computed:,} photos to compute for {drawn:,} to draw, and no other fit known that shares them"
        return ""

    def holds(self, key: Key) -> bool:
        """Whether the key's features are there, as far as can be told without reading them."""
        return (self.kind.folder / key.digest).exists()

    def get(self, key: Key, compute: Compute) -> NDArray[Any] | None:
        """The key's features, (n, *shape), mapped read-only; built where they are not there. None where the cache can't take them."""
        try:
            return self._open_or_build(key, compute)
        except (OSError, RunError) as error:
            if isinstance(error, OSError) and error.errno not in WRITE_ERRORS:
                raise
            _warn_once(f"No frozen features are kept under {self.cache}: {error}. Training goes on without them, more slowly.")
            return None

    def _open_or_build(self, key: Key, compute: Compute) -> NDArray[Any]:
        kind, store = self.kind, self.kind.folder / key.digest
        while True:
            found = _open(kind, store, key)
            if found is not None:
                return found
            kind.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), _taking_part(kind, store, key, self.budget_gb) as folder:
                _fill(folder, key, compute)
                _finish(kind, store, folder, key)


def list_stores(cache: Path) -> list[StoreInfo]:
    """The feature stores of a cache, most recently used first."""
    return stores(cache).infos()


def prune(cache: Path, budget_gb: float) -> list[StoreInfo]:
    """Remove feature stores, least recently used first, until the rest fits the budget, GB; those in use stay. Returns the removed ones."""
    return stores(cache).prune(budget_gb)


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


_checked: dict[str, tuple[int, int, int]] = {}
"""Stores that this process has read whole and found right: path -> inode, bytes, time of the last change."""


def _open(kind: Stores, store: Path, key: Key) -> NDArray[Any] | None:
    """As `Stores.open`; a file that this process read whole before, and that has not changed since, is not read again.

    A damaged store is removed.
    """
    if not store.exists():
        return None
    found = _opened(kind, store, key)
    if found is None:
        with kind.room_lock():  # who removes one to make room holds it, too
            found = _opened(kind, store, key)
            if found is None and store.exists():
                log.warning("The frozen features in %s are damaged: they are computed anew.", store)
                kind.discard(store)
    return found


def _opened(kind: Stores, store: Path, key: Key) -> NDArray[Any] | None:
    try:
        status = (store / kind.file).stat()
    except OSError:
        return None
    seen = (status.st_ino, status.st_size, status.st_mtime_ns)
    known = (read_manifest(store) or {}).get("checksum")
    trusted = replace(kind, checksum=lambda array: known) if known is not None and _checked.get(str(store)) == seen else kind
    found = trusted.open(store, (key.n, *key.shape), key.stored_type)
    if found is not None:
        _checked[str(store)] = seen
    return found


@contextmanager
def _taking_part(kind: Stores, store: Path, key: Key, budget_gb: float) -> Iterator[Path]:
    """The folder that the store is built in, made if nobody has begun. While the block lasts nobody takes it for abandoned.

    Raises RunError where there is no room, FileNotFoundError where others have finished it meanwhile.
    """
    folder = building_folder(store)
    with kind.room_lock():
        if store.exists():
            raise FileNotFoundError(errno.ENOENT, "finished by others", str(folder))
        if not (folder / kind.file).exists() or (folder / kind.file).stat().st_size != key.n_bytes:
            kind.make_room(store, key.n_bytes, budget_gb)
            folder.mkdir(exist_ok=True)
            kind.reserve(store, key.n_bytes)
        descriptor = os.open(folder / kind.file, os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        yield folder
    finally:
        os.close(descriptor)


def _fill(folder: Path, key: Key, compute: Compute) -> None:
    """Compute what no other process does, until all is done. Processes begin at different chunks."""
    starts = list(range(0, key.n, CHUNK))
    rows = np.memmap(folder / FEATURES, key.stored_type, "r+", shape=(key.n, *key.shape))
    first = os.getpid() % len(starts)
    while True:
        left = [start for start in starts[first:] + starts[:first] if not _mark(folder, start).exists()]
        if not left:
            return
        worked = [start for start in left if _do(folder, start, rows, compute)]
        if not worked:
            time.sleep(_LOOK_S)


def _do(folder: Path, start: int, rows: NDArray[Any], compute: Compute) -> bool:
    """Compute a chunk unless another process does, or did."""
    with (folder / f"{start}.claim").open("wb") as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if _mark(folder, start).exists():
            return False
        positions = np.arange(start, min(start + CHUNK, len(rows)))
        rows[positions] = as_rows(compute(positions))
        write_atomically(_mark(folder, start), str(whole_checksum(rows[positions])), wait=False)
        return True


def _mark(folder: Path, start: int) -> Path:
    """The file that says that a chunk is done; it holds its checksum."""
    return folder / f"{start}.done"


def _finish(kind: Stores, store: Path, folder: Path, key: Key) -> None:
    """Make a store of the folder, unless another process has. A chunk that is not what was written (a machine failed) is given up."""
    with kind.room_lock():
        if store.exists() or not folder.exists():
            return
        rows = np.memmap(folder / kind.file, key.stored_type, "r+", shape=(key.n, *key.shape))
        for start in range(0, key.n, CHUNK):
            if _mark(folder, start).read_text() != str(whole_checksum(rows[start : start + CHUNK])):
                _mark(folder, start).unlink()
                return
        rows.flush()
        manifest = {
            "shape": (key.n, *key.shape),
            "bytes": key.n_bytes,
            "checksum": whole_checksum(rows),
            "source": key.source,
            "parts": dict(key.parts),
        }
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, default=str))
        for passing in (*folder.glob("*.claim"), *folder.glob("*.done")):
            passing.unlink()
        folder.rename(store)
        log.info("Frozen features of %s photos (%s) kept: %s.", f"{key.n:,}", key.source, gb(key.n_bytes))


_warned: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        log.warning(text)
