"""The decoded photos on disk: which stores there are, which are in use, and which must go to keep within a bound.

A store is a folder `<cache>/pixels/<digest>`: PIXELS, the bytes of one uint8 array (photos, size, size, 3), and MANIFEST, which says
what they are. A store appears whole, by renaming its folder. It is in use as long as somebody holds a shared lock on PIXELS.
"""

import fcntl
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from maskcls.errors import RunError

Image = NDArray[np.uint8]

PIXELS, MANIFEST = "pixels.u8", "manifest.json"
BUILDING = ".building-"
BYTES_PER_GB = 10**9
SAMPLED_ROWS = 64


@dataclass(frozen=True)
class StoreInfo:
    """A store as `maskcls.cache list` shows it; `last_used_s` is in seconds since 1970."""

    name: str
    photos: int
    image_size: int
    n_bytes: int
    last_used_s: float
    in_use: bool
    source: str


def default_cache() -> Path:
    """$MASKCLS_CACHE, else ~/.cache/maskcls."""
    return Path(os.environ.get("MASKCLS_CACHE") or Path.home() / ".cache" / "maskcls")


def stores_folder(cache: Path) -> Path:
    """Where a cache keeps its stores."""
    return cache / "pixels"


def sampled_checksum(rows: Image) -> int:
    """CRC-32 of up to SAMPLED_ROWS rows spread over the array: pages lost in a crash show, and reading it takes no time."""
    checksum = 0
    for row in np.unique(np.linspace(0, len(rows) - 1, SAMPLED_ROWS).astype(int)):
        checksum = zlib.crc32(np.ascontiguousarray(rows[row]).data, checksum)
    return checksum


def read_manifest(store: Path) -> dict[str, Any] | None:
    """None where it is missing or damaged."""
    try:
        manifest = json.loads((store / MANIFEST).read_text(encoding="utf-8"))
        return manifest if {"shape", "bytes", "checksum"} <= set(manifest) else None
    except (OSError, ValueError, TypeError):
        return None


def open_store(store: Path, shape: tuple[int, ...]) -> Image | None:
    """The store's array (shape), mapped read-only; None where there is none, or one whose size or checksum is wrong.

    The map keeps a duplicate of the file's descriptor, and with it the shared lock: the store is in use as long as the array lives.
    """
    manifest = read_manifest(store)
    if manifest is None or tuple(manifest["shape"]) != shape:
        return None
    try:
        descriptor = os.open(store / PIXELS, os.O_RDWR)  # NFS grants an exclusive lock to none that only reads
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while somebody removes it
        status = os.fstat(descriptor)
        if status.st_nlink == 0 or status.st_size != manifest["bytes"] or manifest["bytes"] != int(np.prod(shape)):
            return None
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
    pixels = np.frombuffer(mapped, np.uint8).reshape(shape)
    if sampled_checksum(pixels) != manifest["checksum"]:
        return None
    _touch(store)
    return pixels


def _touch(store: Path) -> None:
    """Last used now; a cache that may only be read is as good, but forgets that."""
    try:
        os.utime(store / MANIFEST)
    except OSError:
        return


def list_stores(cache: Path) -> list[StoreInfo]:
    """The stores under `cache`, most recently used first. A damaged one has no photos."""
    folder = stores_folder(cache)
    if not folder.is_dir():
        return []
    found = [_info(store) for store in folder.iterdir() if store.is_dir() and not store.name.startswith(".")]
    return sorted((info for info in found if info is not None), key=lambda info: (-info.last_used_s, info.name))


def _info(store: Path) -> StoreInfo | None:
    manifest = read_manifest(store) or {"shape": (0, 0)}
    try:
        last_used = next(file for file in (store / MANIFEST, store) if file.exists()).stat().st_mtime
        in_use = not _unused(store)
    except (FileNotFoundError, StopIteration):  # removed meanwhile
        return None
    photos, size = manifest["shape"][:2]
    return StoreInfo(store.name, photos, size, _bytes(store), last_used, in_use, manifest.get("source", ""))


def _bytes(store: Path) -> int:
    return sum(file.stat().st_size for file in store.iterdir())


@contextmanager
def _exclusively(store: Path) -> Iterator[bool]:
    """Whether nobody uses the store; if so, nobody can open it inside the block."""
    try:
        descriptor = os.open(store / PIXELS, os.O_RDWR)  # NFS grants an exclusive lock to none that only reads
    except FileNotFoundError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _unused(store: Path) -> bool:
    with _exclusively(store) as unused:
        return unused


def _remove(store: Path) -> bool:
    """Remove a store unless it is in use. The manifest goes first: what is half removed is no store."""
    with _exclusively(store) as unused:
        if unused:
            (store / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(store)
        return unused


def discard(store: Path) -> None:
    """Remove a damaged store; who has it mapped keeps what he sees."""
    if store.exists():
        (store / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(store)


def prune(cache: Path, budget_gb: float) -> list[StoreInfo]:
    """Remove stores, least recently used first, until the rest fits `budget_gb`; those in use stay. Returns the removed ones."""
    if not stores_folder(cache).is_dir():
        return []
    with room_lock(cache):
        return _evict(cache, _budget_bytes(budget_gb))


def room_lock(cache: Path) -> FileLock:
    """Held while room is made and taken, so that two builders do not both count on the same room."""
    return FileLock(stores_folder(cache) / ".room.lock")


def build_lock(store: Path) -> FileLock:
    """Held by whoever builds the store."""
    return FileLock(store.parent / f".{store.name}.lock")


def building_folder(store: Path) -> Path:
    """Where a store is built before it is renamed."""
    return store.parent / f"{BUILDING}{store.name}"


def make_room(cache: Path, store: Path, n_bytes: int, budget_gb: float) -> None:
    """Evict until `n_bytes` more fit into the budget. Call it with `room_lock` held. Raises RunError, with the numbers, if they cannot."""
    budget = _budget_bytes(budget_gb)
    if n_bytes > budget:
        raise RunError(
            f"The decoded photos need {gb(n_bytes)}, but --pixel-store-gb allows {budget_gb:g} GB. "
            f"Raise it to {_rounded_up(n_bytes)} or more, or choose a smaller --image-size."
        )
    _evict(cache, budget - n_bytes, spared=store)
    held = _held(cache, store)
    if held + n_bytes > budget:
        raise RunError(
            f"The decoded photos need {gb(n_bytes)}, and {gb(held)} under {stores_folder(cache)} are in use by other runs: "
            f"together more than the {budget_gb:g} GB that --pixel-store-gb allows. "
            f"Raise it to {_rounded_up(held + n_bytes)} or more, wait for them, or name another --cache."
        )


def _evict(cache: Path, budget_bytes: int, spared: Path | None = None) -> list[StoreInfo]:
    _clear_abandoned(cache, spared)
    removed = []
    excess = _held(cache, spared) - budget_bytes
    for info in reversed(list_stores(cache)):
        if excess > 0 and not info.in_use and _remove(stores_folder(cache) / info.name):
            removed.append(info)
            excess -= info.n_bytes
    return removed


def _held(cache: Path, spared: Path | None) -> int:
    """Bytes of all stores, finished or being built (their files have full size from the start), but for one being built."""
    folders = [folder for folder in stores_folder(cache).iterdir() if folder.is_dir()]
    return sum(_bytes(folder) for folder in folders if spared is None or folder != building_folder(spared))


def _clear_abandoned(cache: Path, spared: Path | None) -> None:
    """Remove what builders that were killed left behind: nobody holds their lock."""
    for folder in stores_folder(cache).glob(f"{BUILDING}*"):
        store = folder.with_name(folder.name.removeprefix(BUILDING))
        if store == spared:
            continue
        try:
            with build_lock(store).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue


def _budget_bytes(budget_gb: float) -> int:
    """`inf` is a bound as well: more than any disk."""
    return round(min(budget_gb, 1e9) * BYTES_PER_GB)


def gb(n_bytes: int) -> str:
    """For people to read, as in `0.71 GB`."""
    return f"{n_bytes / BYTES_PER_GB:.3g} GB"


def _rounded_up(n_bytes: int) -> str:
    return f"{np.ceil(n_bytes / BYTES_PER_GB * 100) / 100:g}"
