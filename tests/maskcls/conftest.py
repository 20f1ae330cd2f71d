"""A small folder in the contest's layout, to be spoilt by tests."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import pytest

NAMES = ("incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal")
SUFFIXES = (".jpg", ".jpeg", ".png")

PersonRow = tuple[str, str, str, str, str]
MakeContest = Callable[..., Path]


def people(n: int) -> list[PersonRow]:
    """Rows of train.csv that take all six strata in turn."""
    strata = itertools.islice(itertools.cycle(itertools.product(("male", "female"), (25, 45, 60))), n)
    return [
        (f"{i:06d}", gender, "Asian", str(age), f"{i:06d}_{gender}_Asian_{age}")
        for i, (gender, age) in enumerate(strata, 1)
    ]


def write_photo(file: Path) -> None:
    """Noise of its own for every file."""
    noise = np.random.default_rng(crc32(file.as_posix().encode())).integers(0, 256, (20, 16, 3), np.uint8)
    file.write_bytes(cv2.imencode(file.suffix, noise)[1].tobytes())


@pytest.fixture
def make_contest(tmp_path: Path) -> MakeContest:
    def make(rows: int | Sequence[PersonRow] = 24, name: str = "faces") -> Path:
        data = tmp_path / name
        rows = people(rows) if isinstance(rows, int) else rows
        for row in rows:
            folder = data / "train/images" / row[4]
            folder.mkdir(parents=True, exist_ok=True)
            for i, stem in enumerate(NAMES):
                write_photo(folder / (stem + SUFFIXES[i % 3]))
        with (data / "train/train.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "gender", "race", "age", "path"), *rows])
        return data

    return make
