"""`python -m maskcls.evaluate`: how good a bundle, or a finished submission, is on photos whose classes are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.errors import CallError
from maskcls.text import printable

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

    from maskcls.serving.evaluation import Evaluation
    from maskcls.serving.predictor import Predictor

WIDTH_IN_FILES = 100
"""Width in characters of the tables where there is no terminal to fit them into."""


def main(
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Folder of an exported classifier.", show_default="none: --submission is scored"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help=f"{cli.DATA_HELP}: its labelled people.",
            show_default="none",
        ),
    ] = None,
    people_from: cli.PeopleFrom = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Photos as in maskcls.predict, with --answers.", show_default="none")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="CSV file with the true classes: ImageID,ans.", show_default="none")
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option("--submission", help="CSV file to score against --answers: ImageID,ans.", show_default="none"),
    ] = None,
    corrections: cli.Corrections = "published",
    skip_bad: cli.SkipBad = False,
    tta: cli.Tta = False,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder of all runs, in which a use of a search's holdout is noted.")
    ] = Path("runs"),
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Print macro F1, accuracy, F1 per task and F1 per class.

    Of --bundle on --data; of --bundle on --images with --answers (by default the photos of eval/info.csv under --data);
    or of --submission with --answers. Where people of the holdout of the bundle's search are scored, that is noted and
    counted.
    """
    from maskcls.serving.evaluation import note_use_of_holdout, render, warning

    _check_call(bundle, data, images, answers, submission)
    use = ""
    if submission is not None and answers is not None:
        from maskcls.serving.evaluation import evaluate_submission

        evaluation = evaluate_submission(submission, answers)
    elif bundle is not None:
        from maskcls.serving.predictor import Predictor

        photos = _labelled(data, images, answers, corrections, skip_bad, people_from)
        predictor = Predictor(bundle, device, flip=tta)
        evaluation = _evaluate(predictor, photos, skip_bad)
        use = note_use_of_holdout(evaluation, predictor, runs)
    _console().print(render(evaluation))
    for text in filter(None, (warning(evaluation), use)):
        typer.echo(printable(text), err=True)


def _console() -> Console:
    from maskcls.command_line.console import SafeConsole  # imports rich

    console = SafeConsole()
    return console if console.is_terminal else SafeConsole(width=WIDTH_IN_FILES)


def _check_call(
    bundle: Path | None, data: Path | None, images: Path | None, answers: Path | None, submission: Path | None
) -> None:
    if (bundle is None) == (submission is None):
        raise CallError("Give either --bundle DIR, to score a classifier, or --submission CSV, to score its answers.")
    if submission is not None and answers is None:
        raise CallError("--submission needs --answers CSV with the true classes.")
    if submission is not None and (data or images):
        raise CallError("--submission is scored against --answers alone: leave out --data and --images.")
    if images is not None and answers is None:
        raise CallError("--images needs --answers CSV with the true classes.")
    if images is not None and data is not None:
        raise CallError("Give either --data DIR, or --images with --answers CSV.")
    if bundle is not None and images is None and data is None:
        raise CallError("--bundle needs --data DIR with labelled people, or --images with --answers CSV.")


def _labelled(
    data: Path | None,
    images: Path | None,
    answers: Path | None,
    corrections: str,
    skip_bad: bool,
    people_from: str | None,
) -> DataFrame:
    from maskcls.data.corrections import read_corrections
    from maskcls.data.photos import read_photos
    from maskcls.serving.evaluation import labelled_photos, with_all_labels

    if answers is not None:
        return labelled_photos(images or Path(data or "", "eval"), answers)
    photos = read_photos(
        Path(data or ""), corrections=read_corrections(corrections), skip_bad=skip_bad, people_from=people_from
    )
    return with_all_labels(photos)


def _evaluate(predictor: Predictor, photos: DataFrame, skip_bad: bool) -> Evaluation:
    from maskcls.serving.evaluation import evaluate

    evaluation = evaluate(predictor, photos, skip_bad=skip_bad)
    if evaluation.unreadable:
        typer.echo(f"{evaluation.unreadable:,} of {len(photos):,} photos could not be read and are left out.", err=True)
    return evaluation


if __name__ == "__main__":
    run(main)
