"""`python -m maskcls.demo`: write a contest folder of drawn faces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskcls.cli import run
from maskcls.text import command


def main(
    out: Annotated[Path, typer.Option("--out", help="New folder for the drawn faces, in the contest's layout.")],
    persons: Annotated[
        int, typer.Option("--persons", help="Labelled people, seven photos each; a quarter as many more go to eval/.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other people.")] = 0,
) -> None:
    """Write a contest folder of drawn faces: train/, eval/, and the truth of eval/ in eval-answers.csv."""
    from maskcls.data.demo import folder as demo

    demo.draw(out, persons, seed)
    train = command("maskcls.train", "--data", out, "--out", "NEW_FOLDER")
    print(f"{out} holds {persons} drawn people. Train on them with `{train}`.")


if __name__ == "__main__":
    run(main)
