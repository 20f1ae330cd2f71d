"""`python -m maskcls.check`: list everything that is wrong with labelled photos, in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.problems import remedy
from maskcls.errors import DataError
from maskcls.labels import CLASS_NAMES, UNKNOWN
from maskcls.text import counted, printable

if TYPE_CHECKING:
    import pandas as pd


def main(
    data: Annotated[Path, typer.Option("--data", help=f"{cli.DATA_HELP}.")],
    people_from: cli.PeopleFrom = None,
    write_table: Annotated[
        Path | None,
        typer.Option(
            "--write-table",
            help="CSV file to write: the photos that can be used as a table for --data, with their labels.",
            show_default="none",
        ),
    ] = None,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
) -> None:
    """Read every row and decode every photo; exit with 1 if training would refuse the data."""
    from maskcls.data.checks import inspect_folder
    from maskcls.data.layouts import write

    if write_table is not None:
        write.check_table(write_table, "--write-table")
    inspection = inspect_folder(data, progress=True, people_from=people_from)
    for problem in inspection.problems:
        print(printable(problem.message))
    for note in inspection.notes:
        print(f"Note: {printable(note)}")
    if not inspection.photos.empty:
        print(_summary(inspection.photos))
        if write_table is not None:
            write.write_table(inspection.photos, write_table)
            print(f"Wrote {counted(len(inspection.photos), 'photo')} to {write_table}.")
    if inspection.problems:
        found = counted(len(inspection.problems), "problem")
        raise DataError(f"{data} has {found}. {remedy(inspection.problems)}")
    print(f"{data} is fine.")


def _summary(photos: pd.DataFrame) -> str:
    counts = photos["label"].value_counts()
    width = max(map(len, CLASS_NAMES))
    classes = [f"  {class_:2d}  {name:{width}}  {counts.get(class_, 0):>7,}" for class_, name in enumerate(CLASS_NAMES)]
    if UNKNOWN in counts:
        classes.append(f"   -  {'not known: a label is missing':{width}}  {counts[UNKNOWN]:>7,}")
    people = counted(photos["person"].nunique(), "person", "people")
    return "\n".join([f"{people}, {counted(len(photos), 'photo')} that can be used:", *classes])


if __name__ == "__main__":
    run(main)
