"""What it costs to compare a decoded photo with its checksum, beside one augmented view of it.

    python -m tests.benchmarks.row_checksums

A row is compared once by a fit and its loader processes; a view is made for each photo in each epoch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from maskcls.data.augment import Augmenter
from maskcls.stores.checked import checksum
from maskcls.training.presets import preset

PHOTOS, TIMES = 64, 7


def milliseconds(rows: NDArray[np.uint8], do: Callable[[NDArray[np.uint8]], object]) -> str:
    """CPU time per row: mean and standard deviation of TIMES passes over all rows."""
    taken = []
    for _ in range(TIMES):
        began = time.process_time()
        for row in rows:
            do(row)
        taken.append((time.process_time() - began) / PHOTOS * 1e3)
    return f"{statistics.mean(taken):.3f} +- {statistics.stdev(taken):.3f} ms"


def main() -> None:
    """Print both for two sizes of photos."""
    recipe = preset("contest-2021", "gpu")
    augmenter = Augmenter(recipe.augmentation, recipe.augmentation_seed)
    for size_px in (112, 256):
        rows = np.random.default_rng(0).integers(0, 255, (PHOTOS, size_px, size_px, 3), dtype=np.uint8)
        compared = milliseconds(rows, checksum)
        view = milliseconds(rows, lambda row: augmenter.view(row, "photo", 0))
        print(f"{size_px} px: checksum {compared}, view {view} (n = {TIMES})")


if __name__ == "__main__":
    main()
