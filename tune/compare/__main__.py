"""`python -m tune.compare --vary key=value,value`: does this choice help, over several seeds and people, and how sure is that?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run as run_door

VARY_HELP = "key=value,value or key=[JSON]: a recipe's values to compare; may be repeated. On --resume: values to add."
STUDY_HELP = "A declared list of comparisons: a study's name, or a Python file that defines STUDY."
SEEDS_HELP = "Repeats: each trains every variant with a seed of its own on a split of its own. With --resume: in all."
FOLDS_HELP = "Parts of the people; each repeat tests one, in turn."
SPLIT_HELP = "JSON file with your own lists of people. The holdout is left alone, the folds are drawn of the others."
GPUS_HELP = "GPUs of a fit; may be a fraction. auto: as many fits share a GPU as its memory holds, which is measured."
RESUME_HELP = "Go on with a run, by path or by name under --runs: after a kill, for more --seeds, or for more --vary."


def main(
    context: typer.Context,
    vary: Annotated[list[str] | None, typer.Option("--vary", help=VARY_HELP, show_default="none")] = None,
    study: Annotated[str | None, typer.Option("--study", help=STUDY_HELP, show_default="none")] = None,
    one_at_a_time: Annotated[
        bool, typer.Option("--one-at-a-time", help="Vary one key at a time, the others as the base has them.")
    ] = False,
    grid: Annotated[
        bool, typer.Option("--grid", help="Combine all values of --vary, instead of one at a time.")
    ] = False,
    data: cli.Data = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help=SEEDS_HELP, show_default="5, or the run's")] = None,
    folds: Annotated[int | None, typer.Option("--folds", help=FOLDS_HELP, show_default="--seeds, from 2 to 5")] = None,
    epochs: cli.Epochs = None,
    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget", help="Stop after that time, as in 90s, 30m, 2h; resumable.", show_default="no bound"
        ),
    ] = None,
    parallel: Annotated[
        int | None,
        typer.Option("--parallel", help="Fits at a time.", show_default="GPUs / --gpus-per-trial, or all cores"),
    ] = None,
    gpus_per_trial: Annotated[
        str | None, typer.Option("--gpus-per-trial", help=GPUS_HELP, show_default="1, in CPU scale 0")
    ] = None,
    cpus_per_trial: Annotated[
        int | None,
        typer.Option("--cpus-per-trial", help="CPU cores, and threads, of a fit.", show_default="cores / --parallel"),
    ] = None,
    weights: cli.Weights = None,
    scale: cli.Scale = "auto",
    image_size: cli.ImageSize = None,
    split_seed: cli.SplitSeed = 0,
    split: Annotated[
        Path | None, typer.Option("--split", help=SPLIT_HELP, show_default="drawn from --split-seed")
    ] = None,
    preset: cli.Preset = "contest-2021",
    set_: cli.Set = None,
    corrections: cli.Corrections = "published",
    skip_bad: cli.SkipBad = False,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder of all runs; on a cluster, on a shared file system.")
    ] = Path("runs"),
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the new run.", show_default="compare and time")
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
) -> None:
    """Compare variants of a recipe with its base, each trained with the same seeds on the same splits, tested on people new to them.

    Ends with a table: macro F1, the difference to the base with a 95 % interval over seeds and people, and a word: better, worse,
    can't tell. Makes runs/NAME with the table, a plot and a page. Ctrl-C ends it cleanly.
    """
    from tune.compare import session
    from tune.compare.options import CompareOptions

    sys.exit(session.run(CompareOptions.stated(context)))


if __name__ == "__main__":
    run_door(main)
