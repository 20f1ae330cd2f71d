"""Photos at an address: fetched once into the cache of this machine, from where they are read as any others.

What is there already, with the same size and time, is not fetched again, so that a fetching that was cut goes on where
it was, and another run on the same photos fetches nothing. A file has the time that it has at the address, so the
decoded photos of one machine are those of another (`maskcls.data.pixels.digest`).
"""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from urllib.parse import urlsplit

from maskcls.errors import DataError, OutOfReach
from maskcls.storage.store import START_S, Store
from maskcls.stores.locks import FolderLock
from maskcls.text import counted

log = logging.getLogger("maskcls")

FOLDER = "photos"
"""In the cache: a folder for each address."""
_TABLES = (".csv", ".parquet")
_AT_A_TIME = 16
"""Files: a request takes longer than what it brings."""
_PATIENCE_S = 120.0


@cache
def fetched(address: str, cache_folder: Path) -> Path:
    """Bring what lies at an address into the cache, and return its place there: a folder, or a table in one.

    Asked once in each process. A table's photos lie in its folder, or below.

    Raises DataError where nothing lies there, and OutOfReach.
    """
    path = urlsplit(address).path
    folder, _, last = path.rpartition("/")
    if not last.endswith(_TABLES):
        return _mirrored(address, cache_folder)
    return _mirrored(address.replace(path, folder, 1), cache_folder) / last


def _mirrored(address: str, cache_folder: Path) -> Path:
    store = Store(address, patience_s=_PATIENCE_S)
    place = cache_folder / FOLDER / hashlib.sha256(address.encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    with FolderLock(place, Path(f"{place}.lock")):
        there = store.trying(START_S, at_start=True).listed()
        if not there:
            raise DataError(f"--data {store}: nothing is there. Expected a table with its photos, or a folder of them.")
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
