"""A contest folder with labels made wrong on purpose, and who they belong to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from maskcls.labels import AGE_CUTS, GENDERS, age_group
from maskcls.seeds import generator

SHARE = 0.04
"""Of the people, for each kind of error."""
WRONG_AGES = (20, 45, 68)
"""Years that stand for an age group."""


def mislabel(data: Path, out: Path, seed: int = 0, share: float = SHARE) -> Mapping[str, set[str]]:
    """Copy a contest folder's train/ with errors: `swap` (incorrect_mask and normal), `gender` and `age` (group).

    Nobody has two. Returns the people (paths) of each kind. Photos are hard links where they can be.
    """
    shutil.copytree(data / "train", out / "train", copy_function=_linked)
    table = pd.read_csv(out / "train" / "train.csv", dtype=str)
    n = max(1, round(share * len(table)))
    drawn = generator(seed, len(table)).permutation(len(table))[: 3 * n].reshape(3, n)
    swapped, turned, aged = (set(table["path"].iloc[rows]) for rows in drawn)
    for person in sorted(swapped):
        _swap_photos(out / "train" / "images" / person)
    table["gender"] = [
        GENDERS[1 - GENDERS.index(gender)] if path in turned else gender
        for path, gender in zip(table["path"], table["gender"], strict=True)
    ]
    rng = generator(seed, len(table), 1)
    table["age"] = [
        str(_other_age(int(age), rng)) if path in aged else age
        for path, age in zip(table["path"], table["age"], strict=True)
    ]
    (out / "train" / "train.csv").unlink()  # it is a link to the original
    table.to_csv(out / "train" / "train.csv", index=False)
    return {"swap": swapped, "gender": turned, "age": aged}


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copyfile(source, target)


def _swap_photos(folder: Path) -> None:
    """Exchange the names of the two photos; each keeps its ending."""
    (incorrect,), (normal,) = folder.glob("incorrect_mask.*"), folder.glob("normal.*")
    passing = folder / "passing"
    incorrect.rename(passing)
    normal.rename(folder / f"incorrect_mask{normal.suffix}")
    passing.rename(folder / f"normal{incorrect.suffix}")


def _other_age(years: int, rng: np.random.Generator) -> int:
    others = [group for group in range(len(WRONG_AGES)) if group != age_group(years, AGE_CUTS)]
    return WRONG_AGES[int(rng.choice(others))]
