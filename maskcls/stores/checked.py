"""Rows of a store that are compared with their checksums when a process first reads them."""

from __future__ import annotations

import logging
import mmap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("maskcls")

CHECKSUMS = "checksums.u32"
"""A store's file of each row's CRC-32."""


class CheckedRows(np.ndarray[Any, np.dtype[np.uint8]]):
    """Rows (n, ...) of a store, mapped read-only. What is taken out of them is a plain array of rows that are right.

    A row that is not what was written is made again, each time that it is read.
    """

    _rows: RowChecks | None = None

    @classmethod
    def of(cls, array: NDArray[np.uint8], checks: RowChecks) -> CheckedRows:
        """View the array, whose rows have these checksums."""
        made = array.view(cls)
        made._rows = checks
        return made

    def __getitem__(self, at: Any) -> Any:
        """Return what numpy does, as a plain array, after a look at the rows that are read for the first time."""
        taken = self.view(np.ndarray)[at]
        if self._rows is None:  # a part of the rows, or what was computed from them
            return taken
        first, rest = (at[0], at[1:]) if isinstance(at, tuple) else (at, ())
        numbers = _numbers(first, len(self))  # () or (m,) rows that are read
        damaged = self._rows.damaged(self.view(np.ndarray), numbers)
        if not damaged:
            return taken
        whole = self.view(np.ndarray)[numbers].copy()
        for row in damaged:
            whole[numbers == row] = self._rows.make(row)
        return whole[(slice(None),) * numbers.ndim + rest]


class RowChecks:
    """Which rows of a store this process, and those that it forks, have found to be right.

    Args:
        checksums: (n,) CRC-32 of each row.
        make: row -> its pixels, as they were when the store was made. Raises where they cannot be had.
        store: the store's folder, for the log.
        on_damage: called when the first row is found that is not what was written.
    """

    def __init__(
        self,
        checksums: NDArray[np.uint32],
        make: Callable[[int], NDArray[np.uint8]],
        store: Path,
        on_damage: Callable[[], None],
    ) -> None:
        self._checksums, self._make, self._store, self._on_damage = checksums, make, store, on_damage
        # Memory that forked processes share, so that the processes that augment look at each row once.
        self._right = np.frombuffer(mmap.mmap(-1, len(checksums)), np.uint8)  # (n,) 1: compared, and right
        self._said = False

    def damaged(self, rows: NDArray[np.uint8], numbers: NDArray[np.int64]) -> list[int]:
        """Return which of these rows () or (m,) are not what was written; those that were right before are not read."""
        if self._right[numbers].all():
            return []
        new = np.unique(numbers[self._right[numbers] == 0])
        right = np.fromiter((checksum(rows[row]) == self._checksums[row] for row in new.tolist()), bool, len(new))
        self._right[new[right]] = 1
        return [int(row) for row in new[~right]]

    def make(self, row: int) -> NDArray[np.uint8]:
        """Make a damaged row again, and say so once."""
        if not self._said:
            self._said = True
            log.warning(
                "Decoded photos in %s are damaged (photo %d is not what was written). What is damaged is decoded "
                "again, and the whole store by the next fit.",
                self._store,
                row + 1,
            )
            self._on_damage()
        return self._make(row)


def _numbers(at: Any, n: int) -> NDArray[np.int64]:
    """Return the numbers of the rows that an index of the first axis takes, () or (m,)."""
    numbers = np.asarray(at if not isinstance(at, slice) and at is not Ellipsis else np.arange(n)[at])
    if numbers.dtype == bool:
        return np.flatnonzero(numbers)
    return np.where(numbers < 0, numbers + n, numbers)


def checksum(row: NDArray[Any]) -> int:
    """Return the CRC-32 of a row's bytes."""
    return zlib.crc32(np.ascontiguousarray(row).data)
