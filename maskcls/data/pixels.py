"""The pixel store: every photo decoded once, through the geometry, into one array on disk for all runs."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep, thread_time

import cv2
import numpy as np
from numpy.typing import NDArray

from maskcls.data.decoding.decode import CONVERSIONS, Image, decode
from maskcls.data.geometry import Geometry, missed_faces_note
from maskcls.data.pool import over_photos, photo_bar
from maskcls.errors import CallError, DataError, NoRoomYet, OutOfReach, RunError
from maskcls.files import replacing, unreadable, write_atomically
from maskcls.stores.arrays import MANIFEST, WRITE_ERRORS, StoreInfo, Stores, build_lock, building_folder, read_manifest
from maskcls.stores.cache_options import default_cache
from maskcls.stores.checked import CHECKSUMS, CheckedRows, RowChecks, checksum
from maskcls.stores.given import PixelSource, has_begun, take
from maskcls.stores.locks import FolderLock
from maskcls.text import first_lines

__all__ = ["StoreInfo", "default_cache", "list_stores", "open_or_build", "prune"]

log = logging.getLogger("maskcls")

DECODING_S = "decoding_s"
"""The manifest's key for the CPU seconds that a photo took on average."""
ROWS = "rows"
"""The manifest's key for the checksum of the rows' checksums; stores of earlier versions have none."""
FACES_MISSED = "faces_missed"
"""The manifest's key for how many photos have the plain crop because no face was found."""

LISTED = 20
"""How many undecodable photos a refusal lists."""

PIXELS = "pixels.u8"

Stamp = tuple[int, int]
"""Of a photo's file its size in bytes, and when it was last modified, in ns since 1970."""

_POLL_S = 0.5
"""Between two looks whether there is room."""


def stores(cache: Path) -> Stores:
    """Return the pixel stores of a cache."""
    return Stores(cache / "pixels", PIXELS, "decoded photos", "--pixel-store-gb", "choose a smaller --image-size")


def list_stores(cache: Path) -> list[StoreInfo]:
    """Return the pixel stores of a cache, most recently used first."""
    return stores(cache).infos()


def prune(cache: Path, budget_gb: float) -> list[StoreInfo]:
    """Remove pixel stores, least recently used first, until the others fit the budget; return the removed ones.

    Those in use stay.
    """
    return stores(cache).prune(budget_gb)


def open_or_build(
    files: Sequence[str],
    keys: Sequence[str],
    geometry: Geometry,
    cache: Path,
    budget_gb: float,
    progress: bool = False,
    *,
    stamps: Sequence[Stamp] | None = None,
    waits: bool = False,
    source: PixelSource | None = None,
) -> tuple[Image, str]:
    """Return the photos' pixels, uint8 (n, size, size, 3), row i photo i, mapped read-only, and their digest.

    A photo that has been decoded once is not decoded again. The store belongs to the keys, sizes and modification
    times of the files, to the geometry and to OpenCV's version (`digest`). A process that asks for it while another one
    builds it waits. A damaged store is built again. With a face crop the log says of every store, new or old, in how
    many photos no face was found.

    Args:
        files: paths of the photos, n of them, at least one.
        keys: their identities, wherever the folder is.
        cache: folder for decoded photos; it may be read-only if the store exists already.
        budget_gb: bound on all stores under `cache`, in 10**9 bytes; those least recently used and not in use are
            removed.
        progress: show a bar on stderr, if that is a terminal.
        stamps: of the photos as they were when somebody read the folder. If there is a store of these, no file is
            looked at; if there is none, the photos are taken as they are now. None: as they are now.
        waits: wait, as long as it takes, until others no longer use stores that leave no room for this one. The caller
            must use none itself, or two such callers might wait for each other.
        source: gives the pixels where there is no store of the stamps, and the first photo is not seen here.

    The digest is "" if photos changed while they were decoded, so that nobody knows what the pixels show.

    Raises DataError listing the photos that cannot be decoded, and RunError where the budget or the disk does not hold
    the store, or the cache cannot be written; no incomplete store is left, but what came of `source` is, out of sight.
    """
    if not files or len(files) != len(keys):
        raise CallError(
            f"One key per photo, and at least one photo, expected: got {len(files)} files and {len(keys)} keys."
        )
    kind = stores(cache)
    pixels, is_known = None, True
    with _naming_the_cache(cache):
        if stamps is not None:
            store = kind.folder / digest(keys, stamps, geometry)
            pixels = _open(kind, store, store, files, geometry)
            if pixels is None and source is not None and not Path(files[0]).exists() and source.is_there:
                build = partial(_build, kind, store, files, geometry, budget_gb, progress, waits, source=source)
                pixels, _ = _open_or(build, lambda: _open(kind, store, store, files, geometry), store)
        if pixels is None:
            now = read_stamps(files)
            if stamps is not None and list(stamps) != now:
                log.warning(_changed(files, stamps, now))
            store = kind.folder / digest(keys, now, geometry)
            build = partial(_build, kind, store, files, geometry, budget_gb, progress, waits)
            pixels, is_new = _open_or(build, lambda: _open(kind, store, store, files, geometry), store)
            is_known = not is_new or read_stamps(files) == now
    _log_missed_faces(store, geometry, len(files))
    return pixels, store.name if is_known else ""


def _log_missed_faces(store: Path, geometry: Geometry, n_photos: int) -> None:
    if geometry.face_crop != "none":
        manifest = read_manifest(store) or {}
        log.info(missed_faces_note(manifest.get(FACES_MISSED, 0), n_photos))


def _open(kind: Stores, folder: Path, store: Path, files: Sequence[str], geometry: Geometry) -> Image | None:
    """Return the pixels in a folder, each row compared with its checksum when it is first read; None if there are none.

    The rows of a store of an earlier version have no checksums: of these a sample is compared as a whole.

    Args:
        store: the store that the folder is, or becomes.
    """
    rows = kind.open(folder, _shape(files, geometry), np.uint8)
    noted = (read_manifest(folder) or {}).get(ROWS)
    if rows is None or noted is None:
        return rows
    try:
        checksums = np.fromfile(folder / CHECKSUMS, np.uint32)
    except FileNotFoundError:
        return None
    if len(checksums) != len(files) or checksum(checksums) != noted:
        return None

    def made(row: int) -> Image:
        pixels, *_ = geometry.crop(decode(files[row]).rgb)
        if checksum(pixels) != checksums[row]:
            raise DataError(
                f"The decoded photos in {store} are damaged, and {files[row]} is no longer the photo that was decoded. "
                "Restore the photo, and go on: they are decoded again."
            )
        return pixels

    def discard() -> None:
        with suppress(OSError), kind.room_lock():  # in a cache that may only be read, every process mends it for itself
            kind.discard(store)

    return CheckedRows.of(rows, RowChecks(checksums, made, store, discard))


def _shape(files: Sequence[str], geometry: Geometry) -> tuple[int, ...]:
    return (len(files), geometry.image_size, geometry.image_size, 3)


def _open_or(
    build: Callable[[FolderLock], Image], opened: Callable[[], Image | None], store: Path
) -> tuple[Image, bool]:
    """Return the store's pixels, and whether they were decoded just now."""
    pixels = opened()
    if pixels is not None:
        return pixels, False
    # The lock needs a cache that can be written, so it is not taken where the store is there already.
    store.parent.mkdir(parents=True, exist_ok=True)
    with build_lock(store) as lock:
        pixels = opened()  # built by another process while this one waited
        if pixels is not None:
            return pixels, False
        return build(lock), True


def decoding_s(cache: Path, digest: str) -> float:
    """Return the CPU seconds that a photo took when the store of this digest was made; 0 where that is unknown."""
    manifest = (read_manifest(stores(cache).folder / digest) if digest else None) or {}
    return float(manifest.get(DECODING_S, 0.0))


def digest(keys: Sequence[str], stamps: Sequence[Stamp], geometry: Geometry) -> str:
    """Return 24 hex digits of everything that the pixels depend on.

    That is the photos' keys and stamps, the geometry, and OpenCV's version, which may decode to other bits.
    """
    identity = hashlib.sha256(f"{cv2.__version__} {geometry.digest} {len(keys)}\n".encode())
    for key, (size_bytes, mtime_ns) in zip(keys, stamps, strict=True):
        identity.update(f"{key}\t{size_bytes}\t{mtime_ns}\n".encode())
    return identity.hexdigest()[:24]


def read_stamps(files: Sequence[str]) -> list[Stamp]:
    """Return the files' sizes and times as they are now. Raises OutOfReach where a file can't be read."""
    found: list[Stamp] = []
    for file in files:
        try:
            status = os.stat(file)  # noqa: PTH116 - a Path for each photo would double the time
        except OSError as error:
            raise OutOfReach(unreadable(file, error)) from None
        found.append((status.st_size, status.st_mtime_ns))
    return found


def _changed(files: Sequence[str], before: Sequence[Stamp], now: Sequence[Stamp]) -> str:
    changed = [file for file, *pair in zip(files, before, now, strict=True) if pair[0] != pair[1]]
    return (
        f"{len(changed):,} of {len(files):,} photos have another size or time than when they were listed, as "
        f"{changed[0]}. They are taken as they are now."
    )


@contextmanager
def _naming_the_cache(cache: Path) -> Iterator[None]:
    """Turn an error of the disk into one that names the cache and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        raise RunError(
            f"The cache folder {cache} cannot take the decoded photos: {error.strerror}. "
            "Free some space there, or name another folder with --cache (or MASKCLS_CACHE)."
        ) from None


def _build(
    kind: Stores,
    store: Path,
    files: Sequence[str],
    geometry: Geometry,
    budget_gb: float,
    progress: bool,
    waits: bool,
    lock: FolderLock,
    *,
    source: PixelSource | None = None,
) -> Image:
    """Decode into a folder beside `store`, open it, then rename it to `store`. The caller holds the build lock."""
    started = monotonic()
    shape = _shape(files, geometry)
    n_bytes = int(np.prod(shape))
    folder = building_folder(store)
    try:
        if source is None or store.exists() or not has_begun(folder):
            shutil.rmtree(folder, ignore_errors=True)  # what a killed builder left
            _take_room(kind, store, n_bytes, budget_gb, waits)
        lock.take_folder()
        rows = np.memmap(folder / PIXELS, np.uint8, "r+", shape=shape)
        checksums = np.zeros(len(files), np.uint32)
        counts, decoding_s = _fill(rows, checksums, files, geometry, progress, source, folder)
        conversions = {name: counts[name] for name in CONVERSIONS if counts[name]}
        # Before the manifest, which vouches for the pixels, and before the folder has the store's name.
        rows.flush()
        with replacing(folder / CHECKSUMS) as stream:
            stream.write(checksums.tobytes())
        manifest = {
            "shape": shape,
            "bytes": n_bytes,
            "checksum": kind.checksum(rows),
            ROWS: checksum(checksums),
            "geometry": geometry.to_dict(),
            "opencv": cv2.__version__,
            "source": os.path.commonpath([Path(file).absolute().parent for file in files]),
            "conversions": conversions,
            FACES_MISSED: counts[FACES_MISSED],
            DECODING_S: decoding_s / len(files),
        }
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2))
        # Opened first: once it has its name, another process that makes room may remove a store that nobody uses.
        pixels = _open(kind, folder, store, files, geometry)
        if pixels is None:
            raise RunError(
                f"The decoded photos of {store} are not what was written a moment ago. "
                "Check the disk, or name another --cache."
            )
        folder.rename(store)
    finally:
        if not has_begun(folder):  # what a source gave is kept, for it to go on
            shutil.rmtree(folder, ignore_errors=True)  # after an error; else it has been renamed
    converted = "".join(f", {count:,} {name}" for name, count in conversions.items())
    seconds = monotonic() - started
    log.info("Decoded %s photos to %d px in %.1f s%s.", f"{len(files):,}", geometry.image_size, seconds, converted)
    return pixels


def _take_room(kind: Stores, store: Path, n_bytes: int, budget_gb: float, waits: bool) -> None:
    """Make the building folder with the pixels' file at its full size; wait for room if `waits`."""
    is_first = True
    while True:
        try:
            # Held for a moment only: other stores may be built while this one is decoded, or waits.
            with kind.room_lock():
                kind.discard(store)  # if it is there, it is damaged and takes room
                kind.make_room(store, n_bytes, budget_gb)
                building_folder(store).mkdir()
                kind.reserve(store, n_bytes)
            return
        except NoRoomYet as error:
            if not waits:
                raise
            if is_first:
                log.warning("%s Waiting for room.", error)
                gc.collect()  # a fit before this one, in this process, may be held by a circle of references
            is_first = False
        sleep(_POLL_S)


def _fill(
    rows: Image,
    checksums: NDArray[np.uint32],
    files: Sequence[str],
    geometry: Geometry,
    progress: bool,
    source: PixelSource | None,
    building: Path,
) -> tuple[Counter[str], float]:
    """Do what `_decode_into` does, or take what is decoded already, of which neither counts nor time are known."""
    if source is None:
        return _decode_into(rows, checksums, files, geometry, progress)
    take(source, geometry.face_crop, rows, checksums, building)
    return Counter(), 0.0


def _decode_into(
    rows: Image, checksums: NDArray[np.uint32], files: Sequence[str], geometry: Geometry, progress: bool
) -> tuple[Counter[str], float]:
    """Fill the rows (n, s, s, 3) and their checksums (n,) in threads.

    Count each conversion, and FACES_MISSED, and the threads' CPU seconds.
    """
    took: list[float] = []

    def one(row: int) -> tuple[str, ...] | DataError:
        began = thread_time()
        try:
            return decoded_into(row)
        finally:
            took.append(thread_time() - began)

    def decoded_into(row: int) -> tuple[str, ...] | DataError:
        try:
            decoded = decode(files[row])
        except DataError as error:
            return error  # not raised, so that all bad photos are listed instead of the first one
        rows[row], face_missed, _ = geometry.crop(decoded.rgb)  # (s, s, 3); each thread has rows of its own
        checksums[row] = checksum(rows[row])
        return (*decoded.conversions, FACES_MISSED) if face_missed else decoded.conversions

    counts: Counter[str] = Counter()
    errors: list[DataError] = []
    with photo_bar(f"Decoding photos to {geometry.image_size} px", len(files), progress) as advance:
        for result in over_photos(one, range(len(files))):
            if isinstance(result, DataError):
                errors.append(result)
            else:
                counts.update(result)
            advance(1)
    if errors:
        raise _refusal(errors, len(files))
    return counts, sum(took)


def _refusal(errors: Sequence[DataError], n_files: int) -> DataError:
    if len(errors) == 1:
        return OutOfReach(str(errors[0]))
    heading = f"{len(errors):,} of {n_files:,} photos cannot be decoded:"
    remedy = "Replace them, or leave them out with --skip-bad."
    return OutOfReach("\n".join([heading, *first_lines(list(map(str, errors)), LISTED), remedy]))
