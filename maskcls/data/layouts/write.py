"""Write a photo table, as `table` reads it: whatever layout the photos came in, the table gives the same again."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from maskcls.data.layouts.rows import OWN, further
from maskcls.data.layouts.words import written
from maskcls.errors import CallError
from maskcls.files import check_writable_name, write_csv

_LABELS = ("mask", "gender")


def check_table(file: Path, option: str) -> None:
    """Raise CallError where no table could be written: to be asked before the work, not after it."""
    check_writable_name(file, option)
    if file.suffix.lower() != ".csv":
        raise CallError(f"{option} {file}: expected the name of a CSV file, as in photos.csv.")
    if file.exists():
        raise CallError(f"{option} {file} is there already. Name a new file, or remove it first.")
    if not file.parent.is_dir():
        raise CallError(f"{option} {file}: there is no folder {file.parent}. Make it first, or name another.")


def write_table(photos: pd.DataFrame, file: Path) -> None:
    """Write the photo table (as of `photos.read_photos`) for --data; paths are relative to the file. Atomic.

    An age group is written only of photos whose age is not known: it follows from the age.
    """
    folder = file.absolute().parent
    columns: dict[str, list[str]] = {
        "file": [os.path.relpath(photo, folder) for photo in photos["file"]],
        "person": photos["person"].tolist(),
        **{name: [written(name, index) for index in photos[name]] for name in _LABELS},
        "age": ["" if pd.isna(age) else str(int(age)) for age in photos["age"]],
    }
    groups = zip(photos["age_group"], photos["age"], strict=True)
    columns["age_group"] = [written("age_group", group) if pd.isna(age) else "" for group, age in groups]
    kept = (*OWN, *further(photos.columns.astype(str)))
    columns |= {name: photos[name].astype(str).tolist() for name in kept}
    if not any(columns["age_group"]):
        del columns["age_group"]
    write_csv(file, tuple(columns), zip(*columns.values(), strict=True))
