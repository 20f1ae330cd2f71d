"""`python -m maskcls.explore --data DIR --out DIR`: labelled photos as one page, to look at before training."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.stores.cache_options import CacheOptions
from maskcls.text import printable


def main(
    out: Annotated[
        Path,
        typer.Option(
            "--out", help="Folder for the page and the PNGs; new or empty, or an exploration with --overwrite."
        ),
    ],
    data: cli.Data = None,
    people_from: cli.PeopleFrom = None,
    corrections: cli.Corrections = "published",
    cache: cli.Cache = None,
    shared_cache: cli.SharedCache = False,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the exploration in --out.")] = False,
) -> None:
    """Count and plot people, classes and photos; find duplicates; draw a contact sheet per class.

    Rows and photos with problems are listed on the page, not refused.
    """
    from maskcls.data.dataset import demo_folder
    from maskcls.reports.explore.facts import gather
    from maskcls.reports.explore.report import check_writable, summary, write

    started = monotonic()
    check_writable(out, overwrite=overwrite)
    if data is None:
        facts = gather(
            demo_folder(CacheOptions(cache, shared=shared_cache).folder),
            corrections="none",
            name="drawn demo faces",
            progress=True,
        )
    else:
        facts = gather(data, corrections=corrections, people_from=people_from, progress=True)
    for line in summary(facts):
        typer.echo(printable(line))
    page, *pictures = write(facts, out)
    typer.echo(f"The page, after {monotonic() - started:.0f} s: {page}")
    typer.echo(f"Beside it are its {len(pictures)} pictures as PNG files.")


if __name__ == "__main__":
    run(main)
