"""Photos at an address: fetched once into the cache of this machine, from where they are read as any others.

What is there already, with the same size and time, is not fetched again, so that a fetching that was cut goes on where
it was, and another run on the same photos fetches nothing. A file has the time that it has at the address, so the
decoded photos of one machine are those of another (`maskcls.data.pixels.digest`).

Beside each folder of photos lies a file of the same name that ends in `.used`. It holds the address, has the time of
the last use, and is locked (flock, shared) by each process that has asked for the photos, as long as that lives.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from urllib.parse import urlsplit

from filelock import Timeout

from maskcls.errors import DataError, OutOfReach
from maskcls.storage.store import START_S, Store
from maskcls.stores.arrays import BYTES_PER_GB, StoreInfo
from maskcls.stores.locks import FolderLock
from maskcls.text import counted, printable

log = logging.getLogger("maskcls")

FOLDER = "photos"
"""In the cache: a folder for each address."""
_TABLES = (".csv", ".parquet")
_AT_A_TIME = 16
"""Files: a request takes longer than what it brings."""
_PATIENCE_S = 120.0
_held: dict[Path, int] = {}
"""By their place, a descriptor for each folder of photos that this process uses; with it the lock ends."""


@cache
def fetched(address: str, cache_folder: Path, option: str = "--data") -> Path:
    """Bring what lies at an address into the cache, and return its place there: a folder, or a table in one.

    Asked once in each process. A table's photos lie in its folder, or below.

    Args:
        option: which gave the address, for messages.

    Raises DataError where nothing lies there, and OutOfReach.
    """
    path = urlsplit(address).path
    folder, _, last = path.rpartition("/")
    if not last.endswith(_TABLES):
        return _mirrored(address, cache_folder, option)
    return _mirrored(address.replace(path, folder, 1), cache_folder, option) / last


def _mirrored(address: str, cache_folder: Path, option: str) -> Path:
    store = Store(address, patience_s=_PATIENCE_S)
    place = cache_folder / FOLDER / hashlib.sha256(address.encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    _hold(place, address)
    with _lock(place):
        place.mkdir(exist_ok=True)
        there = store.trying(START_S, at_start=True).listed()
        if not there:
            raise DataError(
                f"{option} {store}: nothing is there. Expected a table with its photos, or a folder of them."
            )
        wanted = {name: stamp for name, stamp in there.items() if _stamp(place / name) != stamp}
        if wanted:
            log.info("Fetching %s from %s.", counted(len(wanted), "file"), store)
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(partial(_fetch, store, place), wanted, wanted.values()))
        for file in [file for file in place.rglob("*") if file.is_file()]:
            if file.relative_to(place).as_posix() not in there:
                file.unlink()
    return place


def _fetch(store: Store, place: Path, name: str, stamp: tuple[int, int]) -> None:
    size, mtime_ns = stamp
    try:
        store.fetch(name, place / name)
    except FileNotFoundError:
        size = -1
    if size < 0 or (place / name).stat().st_size != size:
        raise OutOfReach(f"{store}/{name} changed while it was fetched. Try again when nobody writes there.")
    os.utime(place / name, ns=(mtime_ns, mtime_ns))


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def list_stores(cache_folder: Path) -> list[StoreInfo]:
    """Return the folders of fetched photos in a cache, most recently used first; `source` is the address."""
    found = []
    for place in (cache_folder / FOLDER).glob("*/"):
        with suppress(FileNotFoundError, PermissionError):  # removed in the meantime; another user's
            sizes = [file.stat().st_size for file in place.rglob("*") if file.is_file()]
            used = _used(place)
            address = printable(used.read_text(errors="replace")) if used.exists() else ""
            last_used_s = (used if used.exists() else place).stat().st_mtime
            with _alone(place) as nobody_uses_it:
                found.append(StoreInfo(place.name, (len(sizes),), sum(sizes), last_used_s, not nobody_uses_it, address))
    return sorted(found, key=lambda info: (-info.last_used_s, info.name))


def prune(cache_folder: Path, budget_gb: float) -> list[StoreInfo]:
    """Remove folders of fetched photos, least recently used first, until the others fit the budget; return them.

    Those in use stay.
    """
    infos, removed = list_stores(cache_folder), []
    excess = sum(info.n_bytes for info in infos) - budget_gb * BYTES_PER_GB
    for info in reversed(infos):
        place = cache_folder / FOLDER / info.name
        if excess <= 0:
            break
        with suppress(Timeout, PermissionError), _lock(place).acquire(wait=False), _alone(place) as nobody_uses_it:
            if nobody_uses_it:
                shutil.rmtree(place)
                removed.append(info)
                excess -= info.n_bytes
    return removed


def _lock(place: Path) -> FolderLock:
    """Return the lock that is held while photos are fetched or removed."""
    return FolderLock(place, Path(f"{place}.lock"))


def _used(place: Path) -> Path:
    return Path(f"{place}.used")


def _hold(place: Path, address: str) -> None:
    """Note that this process uses the photos, until it ends."""
    if place not in _held:
        _held[place] = os.open(_used(place), os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(_held[place], fcntl.LOCK_SH)  # waits while somebody removes the photos
    os.pwrite(_held[place], address.encode(errors="surrogateescape"), 0)
    os.utime(_held[place])


@contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Yield whether no process uses the photos; if so, none begins to within the block."""
    try:
        descriptor = os.open(_used(place), os.O_RDONLY)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nobody_uses_it = True
        except BlockingIOError:
            nobody_uses_it = False
        yield nobody_uses_it
    finally:
        os.close(descriptor)
