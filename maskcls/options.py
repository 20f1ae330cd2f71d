"""Options that several doors share, so that they are named and explained once. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder in the contest's layout (with train/train.csv); without it, drawn demo faces.",
        show_default="demo faces",
    ),
]
Preset = Annotated[str, typer.Option("--preset", help="Named recipe to start from: contest-2021 or fine-tune.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value: fix a recipe's value; may be repeated.", show_default="none"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="hub, none, or a folder of files named <model>.safetensors or <model>.<tag>.pth.",
        show_default="hub on real data, none on demo faces",
    ),
]
Scale = Annotated[str, typer.Option("--scale", help="auto, cpu or gpu: auto is cpu on a machine without a GPU.")]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", help="Edge of the square that the model sees, px.", show_default="the preset's"),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Epochs of a fit.", show_default="the preset's")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of a fit: initialisation, order, dropout.", show_default="0")
]
SplitSeed = Annotated[int, typer.Option("--split-seed", help="Seed of the split of the people; belongs to the data.")]
SplitFile = Annotated[
    Path | None,
    typer.Option(
        "--split",
        help="JSON file with your own lists of people: train, validation, holdout.",
        show_default="drawn from --split-seed",
    ),
]
Corrections = Annotated[
    str,
    typer.Option(
        "--corrections", help="Label corrections: published (those of the contest's teams), none, or a CSV file."
    ),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out photos and people with problems instead of refusing.")
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta", help="Test-time augmentation: the mean over a photo and its mirror image, in twice the time."
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder for decoded photos and frozen features.",
        show_default="$MASKCLS_CACHE or ~/.cache/maskcls",
    ),
]
FeatureStoreGb = Annotated[
    float,
    typer.Option(
        "--feature-store-gb",
        min=0,
        help="Bound on what frozen stages gave, kept under --cache, GB; 0: nothing is kept.",
    ),
]
PixelStoreGb = Annotated[
    float, typer.Option("--pixel-store-gb", help="Bound on the decoded photos kept under --cache, GB.")
]
