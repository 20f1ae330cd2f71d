"""A small pixel store for tests: twelve photos of noise, and how they are decoded into a store."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from maskcls.data.geometry import Geometry
from maskcls.data.pixels import list_stores, open_or_build

N, SIZE = 12, 32
STORE_BYTES = N * SIZE * SIZE * 3
GB = 1e-9  # one byte of it
ROOMY = 1.0


def drawn(folder: Path) -> list[str]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        cv2.imwrite(str(folder / f"{i:02d}.png"), rng.integers(0, 255, (40 + i, 36, 3), dtype=np.uint8))
    return sorted(str(file) for file in folder.iterdir())


def keys(files: list[str]) -> list[str]:
    return [Path(file).name for file in files]


def build(files: list[str], cache: Path, size: int = SIZE, budget_gb: float = ROOMY) -> np.ndarray:
    return open_or_build(files, keys(files), Geometry(size), cache, budget_gb)[0]


def store_of(cache: Path) -> Path:
    (store,) = [cache / "pixels" / info.name for info in list_stores(cache)]
    return store
