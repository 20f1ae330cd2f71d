"""Decoded photos that a machine is given, because it does not see the photos themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import OutOfReach
from maskcls.stores.checked import checksum

Pixels = NDArray[np.uint8]


class PixelSource(Protocol):
    """Gives decoded photos."""

    @property
    def is_there(self) -> bool:
        """Whether it gives any."""
        ...

    def rows(self, image_size: int, face_crop: str, n_photos: int) -> Iterator[tuple[int, Pixels]]:
        """Yield all rows (k, image_size, image_size, 3), some at a time, each after the number of its first."""
        ...


def take(source: PixelSource, face_crop: str, rows: Pixels, checksums: NDArray[np.uint32]) -> None:
    """Fill rows (n, s, s, 3) and their checksums (n,) with what the source gives. Raises OutOfReach where some lack."""
    n_photos, image_size, done = len(rows), rows.shape[1], 0
    for start, part in source.rows(image_size, face_crop, n_photos):
        if start != done or part.shape[1:] != rows.shape[1:] or part.dtype != rows.dtype:
            raise OutOfReach(f"Decoded photos came as {part.shape} from row {start}, and {rows.shape} are wanted.")
        rows[start : start + len(part)] = part
        for row in range(start, start + len(part)):
            checksums[row] = checksum(rows[row])
        done += len(part)
    if done != n_photos:
        raise OutOfReach(f"{done:,} of {n_photos:,} decoded photos came.")
