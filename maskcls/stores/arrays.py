"""Arrays kept on disk and shared by all processes, within a bound: which exist, which are in use, which must go.

A store is a folder `<folder>/<digest>` with the bytes of one array in a file, and MANIFEST, which describes them. A
store appears whole, by renaming its folder. It is in use as long as some process holds a shared lock on the array's
file.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from maskcls.errors import Damaged, NoRoomYet, RunError
from maskcls.files import FileKind
from maskcls.stores.locks import FolderLock

Array = NDArray[Any]

MANIFEST = "manifest.json"
MANIFEST_FILE = FileKind("a description of an array", "Remove the folder {folder}.")
BUILDING = ".building-"  # the leading dot hides unfinished stores from `Stores.infos`
BYTES_PER_GB = 10**9  # decimal, not 2**30
SAMPLED_ROWS = 64
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}  # another user's files, or a file system that is read-only
WRITE_ERRORS = {*FORBIDDEN, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY}
"""Errors of a disk to which a store can't be written."""


@dataclass(frozen=True)
class StoreInfo:
    """A store as `maskcls.cache list` shows it; `last_used_s` is in seconds since 1970. A damaged one has no shape."""

    name: str
    shape: tuple[int, ...]
    n_bytes: int
    last_used_s: float
    in_use: bool
    source: str
    held: int | None = None
    """Rows present in a store that is filled while it is used; None: all of them."""

    @property
    def photos(self) -> int:
        return self.shape[0] if self.shape else 0


def sampled_checksum(rows: Array) -> int:
    """Return the CRC-32 of up to SAMPLED_ROWS rows, spread over the array.

    It detects pages that were lost in a crash, and takes no time, as few rows are read.
    """
    checksum = 0
    # The first row, the last one and those at equal distances between; in a small array each row once.
    for row in np.unique(np.linspace(0, len(rows) - 1, SAMPLED_ROWS).astype(int)):
        checksum = zlib.crc32(np.ascontiguousarray(rows[row]).data, checksum)
    return checksum


def unchecked(rows: Array) -> int:
    """Return 0: for stores that check each row when it is read."""
    return 0


@dataclass(frozen=True)
class Stores:
    """All stores of one kind.

    Args:
        folder: the folder that holds them, and nothing else.
        file: name of the array's file in a store.
        what: what they hold, for messages, as in `decoded photos`.
        option: the option that bounds them, as in `--pixel-store-gb`.
        instead: what else to do where they do not fit, as in `choose a smaller --image-size`.
        checksum: of the array, noted in the manifest and compared when a store is opened.
    """

    folder: Path
    file: str
    what: str
    option: str
    instead: str
    checksum: Callable[[Array], int] = sampled_checksum

    def open(self, store: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Array | None:
        """Map the store's array read-only; return None if there is none, or its size or checksum is wrong.

        The map keeps a duplicate of the file's descriptor, and with it the shared lock: the store is in use as long as
        the array lives.
        """
        try:
            descriptor = _to_lock(store / self.file)
        except FileNotFoundError:
            return None
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while another process removes the store
            # Read under the lock: a store that is being removed has no manifest any more.
            manifest = read_manifest(store)
            if manifest is None or tuple(manifest["shape"]) != shape:
                return None
            status = os.fstat(descriptor)
            # No link: the file was removed between opening and locking it.
            if status.st_nlink == 0 or status.st_size != manifest["bytes"] or manifest["bytes"] != n_bytes:
                return None
            mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        array = np.frombuffer(mapped, dtype).reshape(shape)  # keeps the map alive, and the map the lock
        if self.checksum(array) != manifest["checksum"]:
            return None
        _touch(store)
        return array

    def infos(self) -> list[StoreInfo]:
        """Return the stores that this user may read, most recently used first."""
        if not self.folder.is_dir():
            return []
        found = [
            self._info(store) for store in self.folder.iterdir() if store.is_dir() and not store.name.startswith(".")
        ]
        return sorted((info for info in found if info is not None), key=lambda info: (-info.last_used_s, info.name))

    def prune(self, budget_gb: float) -> list[StoreInfo]:
        """Remove stores, least recently used first, until the others fit `budget_gb`; return the removed ones.

        Those in use stay.
        """
        if not self.folder.is_dir():
            return []
        with self.room_lock():
            return self._evict(_budget_bytes(budget_gb))

    def room_lock(self) -> FolderLock:
        """Return the lock that is held while room is made and taken.

        Without it two builders could count on the same room.
        """
        return FolderLock(self.folder, self.folder / ".room.lock")

    def make_room(self, store: Path, n_bytes: int, budget_gb: float) -> None:
        """Evict until `n_bytes` more fit into the budget, and check that the disk has them.

        The caller holds `room_lock`. Raises RunError, with the numbers, where there is no room; NoRoomYet if there will
        be some as soon as nobody uses the other stores.
        """
        budget = _budget_bytes(budget_gb)
        if n_bytes > budget:
            raise RunError(
                f"The {self.what} need {gb(n_bytes)}, but {self.option} allows {budget_gb:g} GB. "
                f"Raise it to {_rounded_up(n_bytes)} or more, or {self.instead}."
            )
        self._evict(budget - n_bytes, spared=store)
        # What could not be removed: stores in use, being built, or another user's.
        held = self._held(store)
        if held + n_bytes > budget:
            error = NoRoomYet if held - self._used(store) + n_bytes <= budget else RunError
            raise error(
                f"The {self.what} need {gb(n_bytes)}, and {gb(held)} under {self.folder} are in use by other runs: "
                f"together more than the {budget_gb:g} GB that {self.option} allows. "
                f"Raise it to {_rounded_up(held + n_bytes)} or more, wait for them, or name another --cache."
            )
        free = shutil.disk_usage(self.folder).free
        if free < n_bytes:
            raise RunError(
                f"The {self.what} need {gb(n_bytes)}, but the disk of {self.folder} has {gb(free)} left. "
                "Free some space there, or name another folder with --cache."
            )

    def reserve(self, store: Path, n_bytes: int) -> None:
        """Allocate the disk space in the building folder now.

        A full disk is an error here; later it would be a bus error in the map.
        """
        with (building_folder(store) / self.file).open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, n_bytes)

    def discard(self, store: Path) -> None:
        """Remove a damaged store; processes that have mapped it keep what they see."""
        if store.exists():
            (store / MANIFEST).unlink(missing_ok=True)  # first, so that a kill before the rest leaves no store
            shutil.rmtree(store, ignore_errors=True)

    def _info(self, store: Path) -> StoreInfo | None:
        manifest = read_manifest(store) or {"shape": ()}
        try:
            # A damaged store may have no manifest: then the time of its folder counts.
            last_used = next(file for file in (store / MANIFEST, store) if file.exists()).stat().st_mtime
            with self._exclusively(store) as unused:  # only asks: the lock is released at once
                pass
            n_bytes = _bytes(store)
        except (FileNotFoundError, StopIteration):  # removed in the meantime
            return None
        except PermissionError:  # another user's, in a cache that several share
            return None
        return StoreInfo(
            store.name, tuple(manifest["shape"]), n_bytes, last_used, not unused, manifest.get("source", "")
        )

    @contextmanager
    def _exclusively(self, store: Path) -> Iterator[bool]:
        """Yield whether nobody uses the store; if so, nobody can open it inside the block."""
        try:
            descriptor = _to_lock(store / self.file)
        except FileNotFoundError:
            yield True
            return
        try:
            _lock_alone(descriptor)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)

    def _remove(self, store: Path) -> bool:
        """Remove a store unless it is in use or belongs to another user; return whether it was removed.

        The manifest goes first: a folder without one is not a store.
        """
        try:
            with self._exclusively(store) as unused:
                if not unused:
                    return False
                (store / MANIFEST).unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
            return False
        # After its files are closed: NFS keeps open ones, and with them the folder.
        shutil.rmtree(store, ignore_errors=True)
        return True

    def _evict(self, budget_bytes: int, spared: Path | None = None) -> list[StoreInfo]:
        # First, because `_held` counts what killed builders left.
        self._clear_abandoned(spared)
        removed = []
        excess = self._held(spared) - budget_bytes
        for info in reversed(self.infos()):  # least recently used first
            if excess > 0 and not info.in_use and self._remove(self.folder / info.name):
                removed.append(info)
                excess -= info.n_bytes
        return removed

    def _held(self, spared: Path | None) -> int:
        """Return the bytes of all stores, finished or being built, without the one that `spared` will be.

        The files of stores being built have their full size from the start.
        """
        folders = [folder for folder in self.folder.iterdir() if folder.is_dir()]
        return sum(_bytes(folder) for folder in folders if spared is None or folder != building_folder(spared))

    def _used(self, spared: Path) -> int:
        """Return the bytes of stores in use or being built: what can be removed once nobody uses it."""
        building = [folder for folder in self.folder.glob(f"{BUILDING}*") if folder != building_folder(spared)]
        return sum(info.n_bytes for info in self.infos() if info.in_use) + sum(map(_bytes, building))

    def _clear_abandoned(self, spared: Path | None) -> None:
        """Remove what killed builders left: nobody holds their lock."""
        for folder in self.folder.glob(f"{BUILDING}*"):
            store = folder.with_name(folder.name.removeprefix(BUILDING))
            if store == spared:
                continue  # the caller's own, which it is about to build
            try:
                with build_lock(store).acquire(wait=False):
                    shutil.rmtree(folder, ignore_errors=True)
            except (Timeout, PermissionError):  # at work, or another user's
                continue


def read_manifest(store: Path) -> dict[str, Any] | None:
    """Return the manifest; None where it is missing or damaged."""
    try:
        manifest = MANIFEST_FILE.read_object(store / MANIFEST)
    except Damaged:
        return None
    is_whole = {"shape", "bytes", "checksum"} <= set(manifest) and isinstance(manifest["bytes"], int)
    return manifest if is_whole else None


def build_lock(store: Path) -> FolderLock:
    """Return the lock that whoever builds the store holds: of the building folder too, as soon as that is made."""
    # The file is beside the store, because the store's folder is renamed and removed as a whole.
    return FolderLock(building_folder(store), store.parent / f".{store.name}.lock")


def building_folder(store: Path) -> Path:
    """Return the folder in which a store is built before it is renamed."""
    # In the same folder, so on the same disk: there the renaming is one step.
    return store.parent / f"{BUILDING}{store.name}"


def gb(n_bytes: int) -> str:
    """Return a size for people to read, as in `0.71 GB`."""
    return f"{n_bytes / BYTES_PER_GB:.3g} GB"


def _to_lock(file: Path) -> int:
    """Open the file for its lock, and return the descriptor.

    For writing, because NFS grants an exclusive lock only to those who may write; for reading where writing is
    forbidden.
    """
    try:
        return os.open(file, os.O_RDWR)
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        return os.open(file, os.O_RDONLY)


def _lock_alone(descriptor: int) -> None:
    """Lock the file exclusively, if no process uses it; raise BlockingIOError where one does.

    It conflicts with the shared lock of every map of the array, those of this process included.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Another process may hold the exclusive lock for a moment, only to ask whether the store is in use. A shared
        # lock waits for those, and for no others.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _touch(store: Path) -> None:
    """Note that the store is used now; a cache that may only be read can't note it."""
    try:
        os.utime(store / MANIFEST)
    except OSError:
        return


def _bytes(store: Path) -> int:
    """Return the size of its files; one that is renamed or removed in the meantime, or may not be read, counts 0."""
    total = 0
    with suppress(FileNotFoundError, PermissionError):
        for file in store.iterdir():
            with suppress(FileNotFoundError, PermissionError):
                total += file.stat().st_size
    return total


def _budget_bytes(budget_gb: float) -> int:
    """Return the budget in bytes; `inf` becomes more than any disk has."""
    return round(min(budget_gb, 1e9) * BYTES_PER_GB)


def _rounded_up(n_bytes: int) -> str:
    # To the next 0.01 GB: rounded down, the budget that a message names would not suffice.
    return f"{np.ceil(n_bytes / BYTES_PER_GB * 100) / 100:g}"
