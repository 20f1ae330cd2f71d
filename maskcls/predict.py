"""`python -m maskcls.predict`: classifies photos and writes a submission."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run


def main(
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder of an exported classifier.")],
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            help="Folder or table of photos, the contest's eval/ or its info.csv, or a text file with a path per line.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="CSV file to write: ImageID,ans, in the order of info.csv.")
    ] = Path("submission.csv"),
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Also write the 18 probabilities, beside it, as submission.probabilities.csv."
        ),
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Answer class 0 for photos that cannot be read, instead of refusing.")
    ] = False,
    tta: cli.Tta = False,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Classify photos: the mask, gender and age group of each, as one of 18 classes."""
    from maskcls.serving.predictor import Predictor
    from maskcls.serving.submission import (
        check_out,
        find_photos,
        probabilities_file,
        write_probabilities,
        write_submission,
    )

    check_out(out)
    if probabilities:
        check_out(probabilities_file(out))
    photos = find_photos(images)
    predictor = Predictor(bundle, device, flip=tta)
    files, keys = photos["file"].tolist(), photos["key"].tolist()
    if skip_bad:
        predictions = predictor.predictions(files, skip_bad=True, progress=True)
        for message in predictions.bad.values():
            typer.echo(f"Skipped: {message}", err=True)
        if predictions.bad:
            typer.echo(
                f"{len(predictions.bad):,} of {len(files):,} photos could not be read; their answer is class 0.",
                err=True,
            )
        found = predictions.probabilities
    else:
        found = predictor.probabilities(files, progress=True)
    if probabilities:
        table = probabilities_file(out)
        write_probabilities(table, keys, found)
        typer.echo(f"Wrote the probabilities to {table}.")
    write_submission(out, keys, found.argmax(axis=1).tolist())
    typer.echo(f"Wrote {len(keys):,} answers to {out}.")


if __name__ == "__main__":
    run(main)
