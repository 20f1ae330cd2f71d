"""Options of the command line that search and compare share, and their start. Imports nothing heavy, for --help."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tune.runs import output
from tune.runs.cluster import check_address

if TYPE_CHECKING:
    from tune.runs.options import SharedOptions

Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs; on a cluster, on a shared file system.")]
BeginOrResume = Annotated[
    bool,
    typer.Option(
        "--begin-or-resume",
        help="Begin the run --name, or go on with it if it was begun: the same command may be given again and again.",
    ),
]
NewRunFrom = Annotated[
    str | None,
    typer.Option(
        "--new-run-from",
        help="Begin a new run with the options of another, by path or by name under --runs, on the data as it is now; "
        "options that are given beside it count before those.",
        show_default="none",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster to run on, as in auto or HOST:6379.", show_default="Ray is started here"
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Keep the run in a folder or an address as well, as in s3://bucket/runs: another machine goes on from "
        "there, and nodes need no shared file system for it. none: no longer.",
        show_default="none, or the run's",
    ),
]
ShipData = Annotated[
    bool,
    typer.Option(
        "--ship-data",
        help="On a cluster, give decoded photos to the nodes that do not see the photos. An address as --data does so.",
    ),
]
MaxFailures = Annotated[
    int | None,
    typer.Option(
        "--max-failures",
        min=1,
        help="On a cluster, give a node no more work after so many failures by the machine without a new epoch there.",
        show_default="3",
    ),
]
Plan = Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors and the final result.")]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object per event to stdout, and nothing else; people read stderr."),
]


def begin(options: SharedOptions, session: str) -> int:
    """Run a command and return its exit status.

    Whether Ray at the address can be joined is asked first, because the session takes longest to import.

    Args:
        session: the module whose `run` takes the options.
    """
    with output.directed(quiet=options.quiet, as_json=options.as_json):
        check_address(options.address)
        return int(import_module(session).run(options))
