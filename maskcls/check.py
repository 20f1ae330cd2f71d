"""`python -m maskcls.check`: list everything that is wrong with a folder of photos, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.problems import remedy
from maskcls.errors import DataError
from maskcls.labels import CLASS_NAMES
from maskcls.text import counted

if TYPE_CHECKING:
    import pandas as pd


def main(
    data: Annotated[Path, typer.Option("--data", help="Folder in the contest's layout (with train/train.csv).")],
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
) -> None:
    """Read every row and decode every photo; exit with 1 if training would refuse the folder."""
    from maskcls.data.checks import inspect_folder

    inspection = inspect_folder(data, progress=True)
    for problem in inspection.problems:
        print(problem.message)
    for note in inspection.notes:
        print(f"Note: {note}")
    if not inspection.photos.empty:
        print(_summary(inspection.photos))
    if inspection.problems:
        found = counted(len(inspection.problems), "problem")
        raise DataError(f"{data} has {found}. {remedy(inspection.problems)}")
    print(f"{data} is fine.")


def _summary(photos: pd.DataFrame) -> str:
    counts = photos["label"].value_counts()
    width = max(map(len, CLASS_NAMES))
    classes = (f"  {class_:2d}  {name:{width}}  {counts.get(class_, 0):>7,}" for class_, name in enumerate(CLASS_NAMES))
    people = photos["person"].nunique()
    return "\n".join([f"{people:,} people, {len(photos):,} photos that can be used:", *classes])


if __name__ == "__main__":
    run(main)
