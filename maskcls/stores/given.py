"""Decoded photos that a machine is given, because it does not see the photos themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import OutOfReach
from maskcls.stores.checked import checksum

log = logging.getLogger("maskcls")

Pixels = NDArray[np.uint8]

_RECEIVED = "received.u32"
"""In the folder of a store that is being filled: the checksums of the rows that have come, in their order."""


class PixelSource(Protocol):
    """Gives decoded photos."""

    @property
    def is_there(self) -> bool:
        """Whether it gives any."""
        ...

    def rows(self, image_size: int, face_crop: str, n_photos: int, first: int) -> Iterator[tuple[int, Pixels]]:
        """Yield the rows from `first` on, some (k, image_size, image_size, 3) at a time, after their first's number."""
        ...


def has_begun(folder: Path) -> bool:
    """Whether a store's building folder holds rows that came before the filling was cut."""
    return (folder / _RECEIVED).exists()


def take(source: PixelSource, face_crop: str, rows: Pixels, checksums: NDArray[np.uint32], building: Path) -> None:
    """Fill rows (n, s, s, 3) and their checksums (n,) with what the source gives. Raises OutOfReach where some lack.

    Rows that came before an earlier filling was cut, by an error or a kill, are compared with their checksums and kept.

    Args:
        building: the folder of the store that is being filled.
    """
    n_photos, image_size = len(rows), rows.shape[1]
    received = building / _RECEIVED
    done = _kept(received, rows, checksums)
    if done:
        log.info("%s of %s decoded photos came before, and are kept.", f"{done:,}", f"{n_photos:,}")
    with received.open("ab") as noted:
        noted.truncate(done * checksums.itemsize)
        for start, part in source.rows(image_size, face_crop, n_photos, done) if done < n_photos else ():
            if start != done or part.shape[1:] != rows.shape[1:] or part.dtype != rows.dtype:
                raise OutOfReach(f"Decoded photos came as {part.shape} from row {start}, and {rows.shape} are wanted.")
            rows[start : start + len(part)] = part
            done += len(part)
            checksums[start:done] = [checksum(row) for row in part]
            noted.write(checksums[start:done].tobytes())
            noted.flush()  # a kill loses no more than what is on its way
    if done != n_photos:
        raise OutOfReach(f"{done:,} of {n_photos:,} decoded photos came.")
    received.unlink()


def _kept(received: Path, rows: Pixels, checksums: NDArray[np.uint32]) -> int:
    """Count the first rows that are what has come, and fill in their checksums."""
    content = received.read_bytes() if received.exists() else b""
    noted = np.frombuffer(content, np.uint32, count=min(len(content) // 4, len(rows)))  # (k,) without a torn last one
    for row, expected in enumerate(noted):
        if checksum(rows[row]) != expected:
            return row
        checksums[row] = expected
    return len(noted)
