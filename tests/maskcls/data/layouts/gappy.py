"""A table of drawn faces with 1 to 20 photos per person and gaps in every label, over the contest's folder of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import pandas as pd

from maskcls.data.layouts.words import written
from maskcls.data.photos import read_photos

MANY = 20
"""Photos of the person who has most."""


def gappy(folder: Path, contest: Path) -> Path:
    """Write `folder`/photos.csv and, of one person, further photos; return the table.

    People of rare strata stay as they are, so that every class can be trained. Of the others, by turns, one has a
    single photo, one an age group in place of an age, one no gender, one no age, one no mask state in two photos.
    """
    photos = read_photos(contest)
    strata = photos["gender"] * 3 + photos["age_group"]
    people = photos.groupby(strata)["person"].transform("nunique")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for turn, (_, theirs) in enumerate(photos[people > 3].groupby("person")):
        rows += _with_gaps(turn % 6, theirs)
    rows += [_row(photo) for _, photo in photos[people <= 3].iterrows()]
    first = photos[people > 3].groupby("person").get_group(photos[people > 3]["person"].min())
    table = pd.DataFrame([*rows, *_further(folder, first)])
    table.to_csv(folder / "photos.csv", index=False)
    return folder / "photos.csv"


def _row(photo: pd.Series) -> dict[str, object]:
    labels = {name: written(name, photo[name]) for name in ("mask", "gender")}
    group = written("age_group", photo["age_group"])
    looks = "bright" if photo["size_bytes"] % 2 else "dim"
    return {
        "file": photo["file"],
        "person": photo["person"],
        **labels,
        "age": photo["age"],
        "age_group": group,
        "light": looks,
        "key": photo["key"],
    }


def _with_gaps(turn: int, theirs: pd.DataFrame) -> list[dict[str, object]]:
    rows = [_row(photo) for _, photo in theirs.iterrows()]
    if turn == 1:
        return rows[-1:]
    gaps = {2: {"age": ""}, 3: {"gender": ""}, 4: {"age": "", "age_group": ""}}.get(turn, {})
    masks = 2 if turn == 5 else 0
    return [{**row, **gaps, **({"mask": ""} if at < masks else {})} for at, row in enumerate(rows)]


def _further(folder: Path, theirs: pd.DataFrame) -> list[dict[str, object]]:
    """Write brighter copies of a person's photos, up to MANY photos in all, and return their rows."""
    rows = []
    for number in range(MANY - len(theirs)):
        photo = theirs.iloc[number % len(theirs)]
        name = f"more-{number:02d}.jpg"
        cv2.imwrite(str(folder / name), cv2.convertScaleAbs(cv2.imread(photo["file"]), beta=8 + 4 * number))
        rows.append({**_row(photo), "file": name, "key": ""})
    return rows
