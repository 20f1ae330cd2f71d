"""`python -m tune.audit --run RUN | --data DIR --out DIR`: labels that are probably wrong, for a person to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run as run_command
from tune.runs import cli as run_cli

Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="A search with finalists, by folder or by name under --runs: their repeats have predicted already, so "
        "nothing is trained.",
        show_default="none",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help=f"{cli.DATA_HELP}: one fit per fold of the people is trained, without a search.",
        show_default="none",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for corrections.csv and audit.html, with --data for the fits, too: the same command goes on with "
        "them.",
        show_default="of a run: audit/ in it",
    ),
]
Limit = Annotated[int, typer.Option("--limit", help="Doubtful labels on the page, the most doubtful ones.")]
Folds = Annotated[int, typer.Option("--folds", help="Parts of the people; for each, a fit on all others predicts it.")]
Parallel = Annotated[int | None, typer.Option("--parallel", help="Fits at a time.", show_default="GPUs, or all cores")]


def main(
    context: typer.Context,
    run: Run = None,
    data: Data = None,
    out: Out = None,
    limit: Limit = 200,
    folds: Folds = 5,
    preset: cli.Preset = "faces-2026",
    set_: cli.Set = None,
    weights: cli.Weights = None,
    scale: cli.Scale = "auto",
    image_size: cli.ImageSize = None,
    epochs: cli.Epochs = None,
    seed: cli.Seed = None,
    split_seed: cli.SplitSeed = 0,
    split: cli.SplitFile = None,
    corrections: cli.Corrections = "published",
    skip_bad: cli.SkipBad = False,
    people_from: cli.PeopleFrom = None,
    extra: cli.Extra = None,
    runs: run_cli.Runs = Path("runs"),
    parallel: Parallel = None,
    address: run_cli.Address = None,
    cache: cli.Cache = None,
    shared_cache: cli.SharedCache = False,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
) -> None:
    """Find labels that are probably wrong: gender, age group, mask states that were swapped, photos that stand twice.

    Writes corrections.csv, ranked, and audit.html, a page of photos on which each proposal is accepted or rejected with
    a key. The predictions are those of classifiers that did not train on the person.
    """
    from tune.audit import session
    from tune.audit.options import AuditOptions

    session.run(AuditOptions.stated(context))


if __name__ == "__main__":
    run_command(main)
