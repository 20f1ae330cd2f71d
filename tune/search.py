"""`python -m tune.search --space NAME`: search for the best classifier of a folder of faces."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskcls import options
from maskcls.cli import run as run_door

SPACE_HELP = "What to vary: a space's name (see --list-spaces), or a Python file that defines SPACE. Needed for a new search."
TRIALS_HELP = "Trials of the run in all, the preset's recipe (trial 0) and those before a resume included."
PARALLEL_HELP = "Trials at a time."
RESUME_HELP = "Go on with a run, by path or by name under --runs: after a kill, or for more --trials. Its own settings hold."


def main(
    context: typer.Context,
    space: Annotated[str | None, typer.Option("--space", help=SPACE_HELP, show_default="none")] = None,
    data: options.Data = None,
    trials: Annotated[int | None, typer.Option("--trials", help=TRIALS_HELP, show_default="12, or the run's")] = None,
    epochs: options.Epochs = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", help="Stop after that time, as in 90s, 30m, 2h; resumable.", show_default="no bound")
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", help=PARALLEL_HELP, show_default="GPUs / --gpus-per-trial; on the CPU cores, to a third of --trials"),
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option("--gpus-per-trial", help="GPUs of a trial; may be a fraction.", show_default="1, in CPU scale 0")
    ] = None,
    cpus_per_trial: Annotated[
        int | None, typer.Option("--cpus-per-trial", help="CPU cores, and threads, of a trial.", show_default="cores / --parallel")
    ] = None,
    weights: options.Weights = None,
    scale: options.Scale = "auto",
    image_size: options.ImageSize = None,
    seed: options.Seed = 0,
    split_seed: options.SplitSeed = 0,
    split: options.SplitFile = None,
    preset: options.Preset = "contest-2021",
    set_: options.Set = None,
    corrections: options.Corrections = "published",
    skip_bad: options.SkipBad = False,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs; on a cluster, on a shared file system.")] = Path("runs"),
    name: Annotated[str | None, typer.Option("--name", help="Name of the new run.", show_default="space and time")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help=RESUME_HELP, show_default="none")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Ray cluster to run on, as in auto or HOST:6379.", show_default="Ray is started here")
    ] = None,
    cache: options.Cache = None,
    pixel_store_gb: options.PixelStoreGb = 20.0,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    list_spaces: Annotated[bool, typer.Option("--list-spaces", help="List the spaces, and do nothing.")] = False,
) -> None:
    """Search for the best recipe: Optuna suggests, ASHA stops what lags, Ray runs the trials; the best one becomes a bundle.

    The preset's recipe is trial 0. Makes runs/NAME with the leaderboard, the best bundle and a report. Ctrl-C ends it cleanly.
    """
    if list_spaces:
        _list_spaces()
        return
    from tune import session

    sources = {name: context.get_parameter_source(name) for name in context.params}
    stated = {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}
    sys.exit(session.run({**context.params, "set": set_}, {name.rstrip("_") for name in stated}))


def _list_spaces() -> None:
    from search_spaces import get, names

    width = max(len(name) for name in names())
    for name in names():
        typer.echo(f"{name:{width}}  {get(name).question}")
    typer.echo("A Python file that defines SPACE = Space(...) from search_spaces is a space, too. --space NAME --plan shows what varies.")


if __name__ == "__main__":
    run_door(main)
