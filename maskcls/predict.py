"""`python -m maskcls.predict`: classifies photos and writes a submission, or a table of all that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run

_Images = Annotated[
    Path,
    typer.Option(
        "--images",
        help="Folder or table of photos; the contest's eval/ or its info.csv; a text file with one path per line, or "
        "- for standard input; a photo; or a pattern in quotes, as in 'a/**/*.jpg'.",
    ),
]
_Out = Annotated[
    Path,
    typer.Option(
        "--out",
        help="File to write: .csv (ImageID,ans in the order of info.csv), .jsonl or .parquet (all that is known).",
    ),
]
_Probabilities = Annotated[
    bool,
    typer.Option(
        "--probabilities",
        help="Also write the 18 probabilities and those of mask, gender and age group; of a .csv, beside it, as "
        "submission.probabilities.csv.",
    ),
]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what the same call had predicted before it was interrupted.")
]


def main(
    bundle: Annotated[Path, typer.Option("--bundle", help="Folder of an exported classifier.")],
    images: _Images,
    out: _Out = Path("submission.csv"),
    out_format: Annotated[
        str | None, typer.Option("--format", help="csv, jsonl or parquet.", show_default="--out's suffix")
    ] = None,
    probabilities: _Probabilities = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Answer class 0 for photos that cannot be read, instead of refusing.")
    ] = False,
    resume: _Resume = False,
    abstain: cli.Abstain = 0.0,
    tta: cli.Tta = False,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: cli.Engine = "torch",
) -> None:
    """Classify photos: the mask, gender and age group of each, as one of 18 classes."""
    from maskcls.serving.predicting.session import Output, predict
    from maskcls.serving.predicting.tables import files_of, format_of
    from maskcls.serving.predictor import Predictor
    from maskcls.serving.submission import check_out, find_photos

    check_out(out)
    written = Output(out, format_of(out, out_format), probabilities)
    files = files_of(out, written.format, probabilities=probabilities)
    for file in files[1:]:
        check_out(file)
    photos = find_photos(images)
    predictor = Predictor(bundle, device, flip=tta, abstain=abstain, engine=engine)
    names, keys = photos["file"].tolist(), photos["key"].tolist()
    bad = predict(predictor, names, keys, written, skip_bad=skip_bad, resume=resume)
    for message in bad.values():
        typer.echo(f"Skipped: {message}", err=True)
    if bad:
        typer.echo(
            f"{len(bad):,} of {len(keys):,} photos could not be read; their answer is class 0.",
            err=True,
        )
    for file in files[1:]:
        typer.echo(f"Wrote the probabilities to {file}.")
    typer.echo(f"Wrote {len(keys):,} answers to {out}.")


if __name__ == "__main__":
    run(main)
