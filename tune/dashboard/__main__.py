"""`maskcls dashboard RUN`: Optuna's dashboard on a search, also while it runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from maskcls.cli import run as run_command
from tune.runs import cli as run_cli


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The search: its folder, or its name under --runs.")],
    runs: run_cli.Runs = Path("runs"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8080,
) -> None:
    """Serve Optuna's dashboard on a search, on this machine alone: history, importances, curves, each trial.

    The run is only read, so a search may be at work on it; the pages follow it.
    """
    from tune.dashboard.server import serving
    from tune.runs.folder import SearchRun

    warnings.filterwarnings("ignore", module="optuna")  # of few trials, at each look at the importances
    found = SearchRun.open(run, runs)
    with serving(found, port) as server:
        typer.echo(f"Serving {found.name} at {server.url} (Ctrl-C ends it).")
        server.serve_forever()


if __name__ == "__main__":
    run_command(main)
