"""`python -m tune.search --space NAME`: search for the best classifier of a folder of faces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run as run_door

SPACE_HELP = (
    "What to vary: a space's name (see --list-spaces), or a Python file that defines SPACE. Needed for a new search."
)
TRIALS_HELP = "Trials of the run in all, the preset's recipe (trial 0) and those before a resume included."
BUDGET_HELP = "Stop after that time, as in 90s, 30m, 2h, the finalists' repeats included; resumable."
SAMPLER_HELP = "Who suggests: tpe, random, gp, cmaes or grid. The last three want a space of which every trial draws all parameters."
SCHEDULER_HELP = "Who stops what lags, over epochs: asha, median or none."
LEARN_HELP = "A run whose trials the sampler is to know from the start; may be given again."
FINALISTS_HELP = "How many of the best are trained again, so that the mean of their repeats picks the winner; 0: none, and no holdout."
REPEATS_HELP = "How often each finalist is trained again."
BY_HELP = "What repeats differ in: folds of the train and validation people, or seeds alone."
ON_ALL_HELP = "Fit the winner once more on train and validation people: a second bundle, of which no score is known."
PARALLEL_HELP = "Trials at a time."
GPUS_HELP = (
    "GPUs of a trial; may be a fraction. auto: as many trials share a GPU as its memory holds, which is measured."
)
RESUME_HELP = "Go on with a run, by path or by name under --runs: after a kill, for more --trials, or with a wider --space. Its own settings hold."


def main(
    context: typer.Context,
    space: Annotated[str | None, typer.Option("--space", help=SPACE_HELP, show_default="none")] = None,
    data: cli.Data = None,
    trials: Annotated[int | None, typer.Option("--trials", help=TRIALS_HELP, show_default="12, or the run's")] = None,
    epochs: cli.Epochs = None,
    time_budget: Annotated[str | None, typer.Option("--time-budget", help=BUDGET_HELP, show_default="no bound")] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help=SAMPLER_HELP, show_default="tpe, or the run's")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help=SCHEDULER_HELP, show_default="asha, or the run's")
    ] = None,
    learn_from: Annotated[list[str] | None, typer.Option("--learn-from", help=LEARN_HELP, show_default="none")] = None,
    finalists: Annotated[
        int | None, typer.Option("--finalists", help=FINALISTS_HELP, show_default="3, or the run's")
    ] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", help=REPEATS_HELP, show_default="3, or the run's")] = None,
    repeat_by: Annotated[
        str | None, typer.Option("--repeat-by", help=BY_HELP, show_default="folds, or the run's")
    ] = None,
    retrain_on_all: Annotated[bool, typer.Option("--retrain-on-all", help=ON_ALL_HELP)] = False,
    parallel: Annotated[
        int | None,
        typer.Option(
            "--parallel",
            help=PARALLEL_HELP,
            show_default="GPUs / --gpus-per-trial; on the CPU cores, to a third of --trials",
        ),
    ] = None,
    gpus_per_trial: Annotated[
        str | None, typer.Option("--gpus-per-trial", help=GPUS_HELP, show_default="1, in CPU scale 0")
    ] = None,
    cpus_per_trial: Annotated[
        int | None,
        typer.Option("--cpus-per-trial", help="CPU cores, and threads, of a trial.", show_default="cores / --parallel"),
    ] = None,
    weights: cli.Weights = None,
    scale: cli.Scale = "auto",
    image_size: cli.ImageSize = None,
    seed: cli.Seed = 0,
    split_seed: cli.SplitSeed = 0,
    split: cli.SplitFile = None,
    preset: cli.Preset = "contest-2021",
    set_: cli.Set = None,
    corrections: cli.Corrections = "published",
    skip_bad: cli.SkipBad = False,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder of all runs; on a cluster, on a shared file system.")
    ] = Path("runs"),
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the new run.", show_default="space and time")
    ] = None,
    resume: Annotated[str | None, typer.Option("--resume", help=RESUME_HELP, show_default="none")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Ray cluster to run on, as in auto or HOST:6379.", show_default="Ray is started here"
        ),
    ] = None,
    cache: cli.Cache = None,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and do nothing.")] = False,
    list_spaces: Annotated[bool, typer.Option("--list-spaces", help="List the spaces, and do nothing.")] = False,
) -> None:
    """Search for the best recipe: Optuna suggests, ASHA stops what lags, Ray runs the trials; the winner becomes a bundle.

    The preset's recipe is trial 0. The best trials are repeated, and the winner is scored on people whom no trial saw. Makes runs/NAME
    with the leaderboard, the winner's bundle and a report. Ctrl-C ends it cleanly.
    """
    if list_spaces:
        _list_spaces()
        return
    from tune.search import session
    from tune.search.options import SearchOptions

    sys.exit(session.run(SearchOptions.stated(context)))


def _list_spaces() -> None:
    from search_spaces import get, names

    width = max(len(name) for name in names())
    for name in names():
        typer.echo(f"{name:{width}}  {get(name).question}")
    typer.echo(
        "A Python file that defines SPACE = Space(...) from search_spaces is a space, too. --space NAME --plan shows what varies."
    )


if __name__ == "__main__":
    run_door(main)
