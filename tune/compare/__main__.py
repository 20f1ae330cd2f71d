"""`python -m tune.compare --vary key=value,value`: whether a choice helps, over several seeds and people."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from tune.runs import cli as run_cli

Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        help="key=value,value or key=[JSON]: a recipe's values to compare; may be repeated. On --resume: values to "
        "add.",
        show_default="none",
    ),
]
Study = Annotated[
    str | None,
    typer.Option(
        "--study",
        help="A declared list of comparisons: a study's name, or a Python file that defines STUDY.",
        show_default="none",
    ),
]
OneAtATime = Annotated[
    bool, typer.Option("--one-at-a-time", help="Vary one key at a time, the others as the base has them.")
]
Grid = Annotated[bool, typer.Option("--grid", help="Combine all values of --vary, instead of one at a time.")]
EqualTime = Annotated[
    bool,
    typer.Option(
        "--equal-time",
        help="Then train the faster variants again, for as many epochs as fit into the time of the slowest one, and "
        "compare that as well.",
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        help="Repeats: each trains every variant with a seed of its own on a split of its own. With --resume: in all.",
        show_default="5, or the run's",
    ),
]
Folds = Annotated[
    int | None,
    typer.Option(
        "--folds", help="Parts of the people; each repeat tests one, in turn.", show_default="--seeds, from 2 to 5"
    ),
]
TimeBudget = Annotated[
    str | None,
    typer.Option("--time-budget", help="Stop after that time, as in 90s, 30m, 2h; resumable.", show_default="no bound"),
]
Parallel = Annotated[
    int | None,
    typer.Option("--parallel", help="Fits at a time.", show_default="GPUs / --gpus-per-trial, or all cores"),
]
GpusPerTrial = Annotated[
    str | None,
    typer.Option(
        "--gpus-per-trial",
        help="GPUs of a fit; may be a fraction. auto: as many fits share a GPU as its memory holds, which is measured.",
        show_default="1, in CPU scale 0",
    ),
]
CpusPerTrial = Annotated[
    int | None,
    typer.Option("--cpus-per-trial", help="CPU cores, and threads, of a fit.", show_default="cores / --parallel"),
]
Split = Annotated[
    Path | None,
    typer.Option(
        "--split",
        help="JSON file with your own lists of people. The holdout is left alone, the folds are drawn of the others.",
        show_default="drawn from --split-seed",
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the new run.", show_default="compare and time")]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        help="Go on with a run, by path or by name under --runs: after a kill, for more --seeds, or for more --vary.",
        show_default="none",
    ),
]


def main(
    context: typer.Context,
    vary: Vary = None,
    study: Study = None,
    one_at_a_time: OneAtATime = False,
    grid: Grid = False,
    equal_time: EqualTime = False,
    data: cli.Data = None,
    seeds: Seeds = None,
    folds: Folds = None,
    epochs: cli.Epochs = None,
    time_budget: TimeBudget = None,
    parallel: Parallel = None,
    gpus_per_trial: GpusPerTrial = None,
    cpus_per_trial: CpusPerTrial = None,
    weights: cli.Weights = None,
    scale: cli.Scale = "auto",
    image_size: cli.ImageSize = None,
    split_seed: cli.SplitSeed = 0,
    split: Split = None,
    preset: cli.Preset = "contest-2021",
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
) -> None:
    """Compare variants of a recipe with its base, each trained with the same seeds on the same splits, tested on people
    new to them.

    Ends with a table: macro F1, the difference to the base with a 95 % interval over seeds and people, and a verdict:
    better, worse, can't tell. Makes runs/NAME with the table, a plot and a page. Ctrl-C ends it cleanly.
    """
    from tune.compare.options import CompareOptions

    sys.exit(run_cli.begin(CompareOptions.stated(context), "tune.compare.session"))


if __name__ == "__main__":
    run(main)
