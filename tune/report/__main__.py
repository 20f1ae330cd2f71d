"""`python -m tune.report --run RUN`: a search's page written again, with more than the search itself writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run as run_command
from maskcls.errors import CallError
from maskcls.stores.cache_options import CacheOptions

GROUP_HELP = (
    "Column of the people's table (the contest's train.csv has race) by whose values scores are shown as well; may be "
    "repeated."
)


def main(
    run: Annotated[str, typer.Option("--run", help="The search: its folder, or its name under --runs.")],
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", help="Another search: a page of both side by side, and no report.", show_default="none"
        ),
    ] = None,
    group_by: Annotated[
        list[str] | None, typer.Option("--group-by", help=GROUP_HELP, show_default="gender, age group, mask")
    ] = None,
    with_photos: Annotated[
        bool, typer.Option("--with-photos", help="Show the worst mistakes as photos. They are of people.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File for the page.", show_default="in the run: report.html, report-with-RUN2.html"),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    cache: cli.Cache = None,
    shared_cache: cli.SharedCache = False,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
) -> None:
    """Write a search's report: one page that needs no network.

    The holdout is not used again: its predictions are those that were kept when the winner was scored there.
    """
    from tune.report.compare import write_comparison
    from tune.report.page import ReportOptions, write_report
    from tune.runs.folder import SearchRun

    if compare is not None and (group_by or with_photos):
        raise CallError(
            "--group-by and --with-photos belong to a report, not to --compare. Leave them out, or call twice."
        )
    found = SearchRun.open(run, runs)
    options = ReportOptions(
        CacheOptions(cache, pixel_store_gb, shared=shared_cache),
        predicts=True,
        with_photos=with_photos,
        group_by=tuple(group_by or ()),
    )
    if compare is not None:
        file = write_comparison(SearchRun.open(compare, runs), found, options, out)
    else:
        file = write_report(found, options, out)
    typer.echo(f"{found.name}: {file}")


if __name__ == "__main__":
    run_command(main)
