"""Options of the command line that search and compare share. Imports nothing heavy, for the commands' --help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs; on a cluster, on a shared file system.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster to run on, as in auto or HOST:6379.", show_default="Ray is started here"
    ),
]
Plan = Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")]
