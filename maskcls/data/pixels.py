"""The pixel store: every photo decoded once, through the geometry, into one array on disk for all runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import cv2
import numpy as np

from maskcls.data.geometry import CONVERSIONS, Geometry, Image, decode, missed_faces_note
from maskcls.data.pool import over_photos, photo_bar
from maskcls.errors import CallError, DataError, RunError
from maskcls.files import write_atomically
from maskcls.stores.arrays import (
    MANIFEST,
    WRITE_ERRORS,
    StoreInfo,
    Stores,
    build_lock,
    building_folder,
    default_cache,
    read_manifest,
)
from maskcls.text import first_lines

__all__ = ["StoreInfo", "default_cache", "list_stores", "open_or_build", "prune"]

log = logging.getLogger("maskcls")

FACES_MISSED = "faces_missed"
"""The manifest's key for how many photos have the plain crop because no face was found."""

LISTED = 20
"""How many undecodable photos a refusal lists."""

PIXELS = "pixels.u8"


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
    files: Sequence[str], keys: Sequence[str], geometry: Geometry, cache: Path, budget_gb: float, progress: bool = False
) -> Image:
    """Return the photos' pixels, uint8 (n, size, size, 3), row i photo i, mapped read-only.

    A photo that has been decoded once is not decoded again. The store belongs to the keys, sizes and modification
    times of the files, to the geometry and to OpenCV's version. A process that asks for it while another one builds it
    waits. A damaged store is built again. With a face crop the log says of every store, new or old, in how many photos
    no face was found.

    Args:
        files: paths of the photos, n of them, at least one.
        keys: their identities, wherever the folder is.
        cache: folder for decoded photos; it may be read-only if the store exists already.
        budget_gb: bound on all stores under `cache`, in 10**9 bytes; those least recently used and not in use are
            removed.
        progress: show a bar on stderr, if that is a terminal.

    Raises DataError listing the photos that cannot be decoded, and RunError where the budget or the disk does not hold
    the store, or the cache cannot be written; no incomplete store is left.
    """
    if not files or len(files) != len(keys):
        raise CallError(
            f"One key per photo, and at least one photo, expected: got {len(files)} files and {len(keys)} keys."
        )
    kind = stores(cache)
    store = kind.folder / digest(files, keys, geometry)
    shape = (len(files), geometry.image_size, geometry.image_size, 3)
    with _naming_the_cache(cache):
        pixels = kind.open(store, shape, np.uint8)
        # The lock needs a cache that can be written, so it is not taken where the store is there already.
        if pixels is None:
            store.parent.mkdir(parents=True, exist_ok=True)
            with build_lock(store):
                pixels = kind.open(store, shape, np.uint8)  # built by another process while this one waited
                if pixels is None:
                    pixels = _build(kind, store, files, geometry, budget_gb, progress)
    if geometry.face_crop != "none":
        manifest = read_manifest(store) or {}
        log.info(missed_faces_note(manifest.get(FACES_MISSED, 0), len(files)))
    return pixels


def digest(files: Sequence[str], keys: Sequence[str], geometry: Geometry) -> str:
    """Return 24 hex digits of everything that the pixels depend on.

    That is the photos' keys, sizes and times, the geometry, and OpenCV's version, which may decode to other bits.
    Raises DataError where a file can't be read.
    """
    identity = hashlib.sha256(f"{cv2.__version__} {geometry.digest} {len(files)}\n".encode())
    for file, key in zip(files, keys, strict=True):
        try:
            status = os.stat(file)  # noqa: PTH116 - a Path for each photo would double the time
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}.") from None
        identity.update(f"{key}\t{status.st_size}\t{status.st_mtime_ns}\n".encode())
    return identity.hexdigest()[:24]


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
    kind: Stores, store: Path, files: Sequence[str], geometry: Geometry, budget_gb: float, progress: bool
) -> Image:
    """Decode into a folder beside `store`, open it, then rename it to `store`. The caller holds the build lock."""
    started = monotonic()
    shape = (len(files), geometry.image_size, geometry.image_size, 3)
    n_bytes = int(np.prod(shape))
    folder = building_folder(store)
    shutil.rmtree(folder, ignore_errors=True)  # what a killed builder left
    try:
        with kind.room_lock():
            kind.discard(store)  # if it is there, it is damaged and takes room
            kind.make_room(store, n_bytes, budget_gb)
            folder.mkdir()
            kind.reserve(store, n_bytes)
        # The room lock is released before the decoding: other stores may be built at the same time.
        rows = np.memmap(folder / PIXELS, np.uint8, "r+", shape=shape)
        counts = _decode_into(rows, files, geometry, progress)
        conversions = {name: counts[name] for name in CONVERSIONS if counts[name]}
        # Before the manifest, which vouches for the pixels, and before the folder has the store's name.
        rows.flush()
        manifest = {
            "shape": shape,
            "bytes": n_bytes,
            "checksum": kind.checksum(rows),
            "geometry": geometry.to_dict(),
            "opencv": cv2.__version__,
            "source": os.path.commonpath([Path(file).absolute().parent for file in files]),
            "conversions": conversions,
            FACES_MISSED: counts[FACES_MISSED],
        }
        write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2))
        # Opened first: once it has its name, another process that makes room may remove a store that nobody uses.
        pixels = kind.open(folder, shape, np.uint8)
        if pixels is None:
            raise RunError(
                f"The decoded photos of {store} are not what was written a moment ago. "
                "Check the disk, or name another --cache."
            )
        folder.rename(store)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after an error; else it has been renamed
    converted = "".join(f", {count:,} {name}" for name, count in conversions.items())
    seconds = monotonic() - started
    log.info("Decoded %s photos to %d px in %.1f s%s.", f"{len(files):,}", geometry.image_size, seconds, converted)
    return pixels


def _decode_into(rows: Image, files: Sequence[str], geometry: Geometry, progress: bool) -> Counter[str]:
    """Fill the rows (n, s, s, 3) in threads; count each conversion, and FACES_MISSED."""

    def one(row: int) -> tuple[str, ...] | DataError:
        try:
            decoded = decode(files[row])
        except DataError as error:
            return error  # not raised, so that all bad photos are listed instead of the first one
        rows[row], face_missed = geometry.crop(decoded.rgb)  # (s, s, 3); each thread has rows of its own
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
    return counts


def _refusal(errors: Sequence[DataError], n_files: int) -> DataError:
    if len(errors) == 1:
        return errors[0]
    heading = f"{len(errors):,} of {n_files:,} photos cannot be decoded:"
    remedy = "Replace them, or leave them out with --skip-bad."
    return DataError("\n".join([heading, *first_lines(list(map(str, errors)), LISTED), remedy]))
