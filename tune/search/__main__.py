"""`python -m tune.search --space NAME`: search for the best classifier of a folder of faces."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from search_spaces import get, names
from tune.runs import cli as run_cli

Space = Annotated[
    str | None,
    typer.Option(
        "--space",
        help="What to vary: a space's name (see --list-spaces), or a Python file that defines SPACE.",
        show_default="backbones, or the run's",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        "--trials",
        help="Trials of the run in all, the preset's recipe (trial 0) and those before a resume included.",
        show_default="12, or the run's",
    ),
]
TimeBudget = Annotated[
    str | None,
    typer.Option(
        "--time-budget",
        help="Stop after that time, as in 90s, 30m, 2h, the finalists' repeats included; resumable.",
        show_default="no bound",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        help="What suggests trials: tpe, random, gp, cmaes or grid. The last three need a space of which every trial "
        "draws all parameters.",
        show_default="tpe, or the run's",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="What stops trials that fall behind, after half of their epochs: asha, median or none.",
        show_default="asha, or the run's",
    ),
]
LearnFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--learn-from",
        help="A run whose trials the sampler is to know from the start; may be given again.",
        show_default="none",
    ),
]
Finalists = Annotated[
    int | None,
    typer.Option(
        "--finalists",
        help="How many of the best are trained again, so that the mean of their repeats picks the winner; 0: none, and "
        "no holdout.",
        show_default="3, or the run's",
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option("--repeats", help="How often each finalist is trained again.", show_default="3, or the run's"),
]
RepeatBy = Annotated[
    str | None,
    typer.Option(
        "--repeat-by",
        help="What repeats differ in: folds of the train and validation people, or seeds alone.",
        show_default="folds, or the run's",
    ),
]
Single = Annotated[
    bool,
    typer.Option(
        "--single",
        help="Hand over the winner's own model. Otherwise best/ is a bag with its repeats and other trials where that "
        "pays, and a photo takes the work of all its models.",
    ),
]
RetrainOnAll = Annotated[
    bool,
    typer.Option(
        "--retrain-on-all",
        help="Fit the winner once more on train and validation people: a second bundle, of which no score is known.",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        "--keep",
        help="Of how many trials the weights stay, the best ones; those of finalists and of the preset stay as well.",
        show_default="5, or the run's",
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        help="Log the trials to tensorboard, mlflow or wandb as well; may be given again.",
        show_default="none, or the run's",
    ),
]
StudyStorage = Annotated[
    str | None,
    typer.Option(
        "--study-storage",
        help="Copy the study, trial by trial, to a team's Optuna storage as well, as in postgresql://host/database.",
        show_default="none",
    ),
]
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        help="Trials at a time.",
        show_default="GPUs / --gpus-per-trial; on the CPU cores, to a third of --trials",
    ),
]
GpusPerTrial = Annotated[
    str | None,
    typer.Option(
        "--gpus-per-trial",
        help="GPUs of a trial; may be a fraction. auto: as many trials share a GPU as its memory holds, which is "
        "measured.",
        show_default="1, in CPU scale 0",
    ),
]
CpusPerTrial = Annotated[
    int | None,
    typer.Option("--cpus-per-trial", help="CPU cores, and threads, of a trial.", show_default="cores / --parallel"),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the new run.", show_default="space and time")]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Go on with a run, by path or by name under --runs: after a kill, for more --trials, or with a wider "
        "--space. Its own settings hold.",
        show_default="none",
    ),
]


def _list_spaces(context: typer.Context, asked: bool) -> None:
    """Print the spaces, if that is asked, and end the command."""
    if not asked or context.resilient_parsing:  # the shell wants a word completed
        return
    width = max(len(name) for name in names())
    for name in names():
        typer.echo(f"{name:{width}}  {get(name).question}")
    typer.echo(
        "A Python file that defines SPACE = Space(...) from search_spaces is a space, too. --space NAME --plan shows "
        "what varies."
    )
    raise typer.Exit


ListSpaces = Annotated[
    bool, typer.Option("--list-spaces", help="List the spaces, and do nothing.", callback=_list_spaces)
]


def main(
    context: typer.Context,
    space: Space = None,
    data: cli.Data = None,
    trials: Trials = None,
    epochs: cli.Epochs = None,
    time_budget: TimeBudget = None,
    sampler: Sampler = None,
    scheduler: Scheduler = None,
    learn_from: LearnFrom = None,
    finalists: Finalists = None,
    repeats: Repeats = None,
    repeat_by: RepeatBy = None,
    single: Single = False,
    retrain_on_all: RetrainOnAll = False,
    keep: Keep = None,
    log: Log = None,
    study_storage: StudyStorage = None,
    parallel: Parallel = None,
    gpus_per_trial: GpusPerTrial = None,
    cpus_per_trial: CpusPerTrial = None,
    weights: cli.Weights = None,
    scale: cli.Scale = "auto",
    image_size: cli.ImageSize = None,
    seed: cli.Seed = 0,
    split_seed: cli.SplitSeed = 0,
    split: cli.SplitFile = None,
    preset: cli.Preset = "faces-2026",
    set_: cli.Set = None,
    corrections: cli.Corrections = "published",
    skip_bad: cli.SkipBad = False,
    people_from: cli.PeopleFrom = None,
    extra: cli.Extra = None,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
    runs: run_cli.Runs = Path("runs"),
    name: Name = None,
    resume: Resume = None,
    new_run_from: run_cli.NewRunFrom = None,
    begin_or_resume: run_cli.BeginOrResume = False,
    storage: run_cli.Storage = None,
    ship_data: run_cli.ShipData = False,
    max_failures: run_cli.MaxFailures = None,
    address: run_cli.Address = None,
    cache: cli.Cache = None,
    shared_cache: cli.SharedCache = False,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
    plan: run_cli.Plan = False,
    quiet: run_cli.Quiet = False,
    as_json: run_cli.AsJson = False,
    list_spaces: ListSpaces = False,
) -> None:
    """Search for the best recipe: Optuna suggests trials, Ray runs them, and the winner becomes a bundle.

    The best trials are repeated, the winner is scored on people whom no trial saw, and all is in runs/NAME.
    """
    from tune.search.options import SearchOptions

    sys.exit(run_cli.begin(SearchOptions.stated(context), "tune.search.session"))


if __name__ == "__main__":
    run(main)
