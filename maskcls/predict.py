"""`python -m maskcls.predict`: classifies photos and writes a submission, or a table of all that is known."""

from __future__ import annotations

import importlib
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.errors import CallError
from maskcls.text import counted

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
_FaceCheck = Annotated[
    bool,
    typer.Option(
        "--face-check",
        help="Count the faces of each photo: a column faces, of a .csv in --probabilities' table. Photos that the "
        "bundle cuts to the face are counted in any case.",
    ),
]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with what the same call had predicted before it was interrupted.")
]


_Ray = Annotated[
    bool, typer.Option("--ray", help="Predict on a Ray cluster, for millions of photos; the same results to the bit.")
]
_Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="With --ray: the cluster, as in auto or HOST:6379.", show_default="Ray is started here"
    ),
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
        bool, typer.Option("--skip-bad", help="Exit with 0 although photos cannot be read, whose answer is class 0.")
    ] = False,
    face_check: _FaceCheck = False,
    resume: _Resume = False,
    abstain: cli.Abstain = 0.0,
    tta: cli.Tta = False,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: cli.Engine = "torch",
    ray: _Ray = False,
    address: _Address = None,
) -> None:
    """Classify photos: the mask, gender and age group of each, as one of 18 classes.

    Photos that cannot be read get class 0, or in .jsonl and .parquet no answer, and are listed beside --out, as in
    submission.errors.csv. The exit status is then 1.
    """
    from maskcls.serving.predicting.session import Output, predict
    from maskcls.serving.predicting.tables import Format, files_of, format_of
    from maskcls.serving.predictor import Predictor
    from maskcls.serving.submission import check_out, errors_file, find_photos, say_unreadable

    if address is not None and not ray:
        raise CallError("--address belongs to --ray, which is not given.")
    check_out(out)
    written = Output(out, format_of(out, out_format), probabilities)
    files = files_of(out, written.format, probabilities=probabilities)
    for file in (*files[1:], errors_file(out)):
        check_out(file)
    photos = find_photos(images)
    names, keys = photos["file"].tolist(), photos["key"].tolist()
    answers: dict[str, Any] = {"flip": tta, "abstain": abstain, "engine": engine, "face_check": face_check}
    if ray:  # by name: maskcls does not import tune
        predictor = importlib.import_module("tune.predicting.on_ray").RayPredictor(
            bundle, device, address=address, **answers
        )
        with closing(predictor):
            bad = predict(predictor, names, keys, written, resume=resume)
    else:
        bad = predict(Predictor(bundle, device, **answers), names, keys, written, resume=resume)
    for file in files[1:]:
        typer.echo(f"Wrote the probabilities to {file}.")
    typer.echo(f"Wrote {counted(len(keys), 'answer')} to {out}.")
    answer = "class 0" if written.format == Format.CSV else "missing"
    say_unreadable(bad, len(keys), errors_file(out), accepted=skip_bad, answer=answer)


if __name__ == "__main__":
    run(main)
