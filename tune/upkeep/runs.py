"""`maskcls runs list|show|prune|repair`: the runs on disk, what each holds, and a journal made again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls.cli import new_app, run
from maskcls.text import command, counted, first, printable

if TYPE_CHECKING:
    from tune.runs.folder import ComparisonRun, SearchRun
    from tune.upkeep.inventory import RunSummary

app = new_app()
Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its name under --runs.")]
NAMED = 5


@app.callback()
def main() -> None:
    """See the runs on disk and what they hold, make room, or make a damaged journal again."""


@app.command("list")
def list_(runs: Runs = Path("runs")) -> None:
    """List the runs, the latest first."""
    from tune.upkeep.inventory import summaries

    found = summaries(runs)
    if not found:
        print(f"{runs} holds no runs.")
        return
    _print_table(found)


@app.command()
def show(name: Run, runs: Runs = Path("runs")) -> None:
    """Say what a run holds: its scores, and what fills the disk."""
    from rich.filesize import decimal

    from tune.upkeep.inventory import open_any, parts_of, summary

    found = open_any(name, runs)
    one = summary(found)
    print(printable(f"{one.name}: {one.kind}, {one.state}; begun {one.began}, {one.done}."))
    for line in one.scores:
        print(printable(line))
    if one.problem:
        print(printable(one.problem))
    for part, n_bytes in parts_of(found):
        print(f"  {decimal(n_bytes):>10}  {printable(part)}")
    if not one.problem:
        _print_prunable(found)
    print(f"To go on with it: {found.resume_command}")


def _print_prunable(found: SearchRun | ComparisonRun) -> None:
    from rich.filesize import decimal

    from tune.runs.folder import SearchRun
    from tune.upkeep.pruning import prunable

    files = prunable(found) if isinstance(found, SearchRun) else []
    if files:
        how = command("tune.upkeep.runs", "prune", found.path)
        print(f"May go: {counted(len(files), 'file')}, {decimal(sum(size for _, size in files))}, by {how}")


@app.command()
def prune(
    name: Run,
    runs: Runs = Path("runs"),
    keep: Annotated[
        int | None,
        typer.Option(
            "--keep",
            min=1,
            help="Of how many trials the weights stay, the best ones.",
            show_default="as the run was called",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what a finished search no longer needs.

    That is the weights of all but its best trials, and Ray's folders. A search removes such weights by itself (its own
    --keep). Recipes, curves, scores, bundles and the report stay. The
    weights of finalists, of the preset and of unfinished trials stay, too.
    """
    from rich.filesize import decimal

    from tune.runs.folder import SearchRun
    from tune.upkeep.pruning import prunable, remove_all

    found = SearchRun.open(name, runs)
    with found.held():
        files = prunable(found, keep)
        n_bytes = sum(size for _, size in files)
        if not dry_run:
            remove_all(file for file, _ in files)
    print(
        f"{'Would remove' if dry_run else 'Removed'} {counted(len(files), 'file')} of {found.name}: {decimal(n_bytes)}."
    )


@app.command()
def repair(name: Run, runs: Runs = Path("runs")) -> None:
    """Make a search's journal again where it was lost or damaged.

    It is made from the files of its trials.
    """
    from tune.runs.folder import SearchRun
    from tune.upkeep.repair import repair as repaired

    found = SearchRun.open(name, runs)
    made = repaired(found)
    if made is None:
        print(f"Nothing is wrong with {found.journal}.")
        return
    print(printable(made.damage))
    print(f"It was made again: {counted(made.ended, 'trial')} ended, as before", end="")
    print(f", {len(made.unfinished)} unfinished ({first(made.unfinished, NAMED)})." if made.unfinished else ".")
    if made.aside is not None:
        print(f"The damaged one is {made.aside}.")
    print(f"To go on:\n  {found.resume_command}")


def _print_table(found: list[RunSummary]) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    from maskcls.command_line.console import SafeConsole

    table = Table("run", "kind", "state", "begun", "done", "best", "holdout", "size")
    for one in found:
        table.add_row(
            one.name, one.kind, one.state, one.began, one.done, _f1(one.best), _f1(one.holdout), decimal(one.n_bytes)
        )
    console = SafeConsole()
    if not console.is_terminal:
        console.width = 200  # so that programs that read the table get whole lines
    console.print(table)


def _f1(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run(app)
