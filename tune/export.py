"""`python -m tune.export --run RUN --out DIR`: the best epoch of a search's best trial, or of any, as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls.cli import run as run_command
from maskcls.errors import CallError
from maskcls.text import first, predict_command

if TYPE_CHECKING:
    from tune.runs.folder import SearchRun
    from tune.runs.study import Record

NAMED = 20


def main(
    run: Annotated[str, typer.Option("--run", help="The search: its folder, or its name under --runs.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the bundle; must not exist, or be a bundle with --overwrite.")
    ],
    trial: Annotated[
        str | None,
        typer.Option("--trial", help="Which trial, as its number on the leaderboard.", show_default="the best"),
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Export the best epoch, by validation macro F1, of a search's best trial, or of any other, as a bundle."""
    from tune.runs.folder import SearchRun
    from tune.runs.study import records
    from tune.selection.export import export_trial

    found = SearchRun.open(run, runs)
    chosen = choose(found, records(found), trial)
    export_trial(found, chosen.trial_id, out, overwrite)
    typer.echo(
        f"Epoch {chosen.best_epoch} of trial {chosen.trial_id} of {found.name}, validation macro F1 "
        f"{chosen.f1:.4f}, is in {out}. "
        f"To predict:\n  {predict_command(out)}"
    )


def choose(run: SearchRun, trials: Sequence[Record], trial_id: str | None) -> Record:
    """The trial of that number, or the best. Raises CallError: there is none, or it has no finished epoch."""
    from tune.runs.leaderboard import ranked

    scored = [record for record in ranked(trials) if record.f1 is not None]
    if trial_id is None:
        if not scored:
            raise CallError(f"No trial of {run.name} has finished an epoch. Go on with it: {run.resume_command}")
        return scored[0]
    wanted = trial_id.zfill(4)
    chosen = next((record for record in trials if record.trial_id == wanted), None)
    there = _listed(scored)
    if chosen is None:
        raise CallError(
            f"There is no trial {trial_id!r} in {run.name}. Trials with a finished epoch, best first: {there}."
        )
    if chosen.f1 is None:
        message = f": {chosen.message}" if chosen.message else ""
        raise CallError(
            f"Trial {wanted} of {run.name} has no finished epoch ({chosen.state}{message}). Trials that have one, "
            f"best first: {there}."
        )
    return chosen


def _listed(scored: Sequence[Record]) -> str:
    return first([record.trial_id for record in scored], NAMED) or "none"


if __name__ == "__main__":
    run_command(main)
