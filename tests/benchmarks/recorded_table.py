"""A recorded table of real results: every recipe of a small space trained once on real faces, its curve kept.

    python -m tests.benchmarks.recorded_table --data DIR --weights DIR     # an hour on two cores; can be continued

MobileNetV3-small at 64 px, eight epochs, 93 people to train on and 92 to validate on. The table, `recorded_table.csv`
beside this file, has one row per recipe: its parameters and the validation macro F1 of each epoch. `recorded_objective`
reads it.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.dataset import prepare
from maskcls.data.splits import split_people
from maskcls.recipe import Recipe
from maskcls.stores.arrays import CacheOptions
from maskcls.training import presets
from search_spaces import Setting, Space, Suggest
from tune.fitting.curve import read_curve
from tune.fitting.pool import run_fits
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.fitting.worker import run_fit
from tune.runs import cluster

TABLE = Path(__file__).with_name("recorded_table.csv")
EPOCHS = 8
FROZEN_STAGES = (0, 1, 3, 5)
LR_HEADS = (5e-4, 1.5e-3, 5e-3, 1.5e-2)
LR_BODIES = (2e-4, 6e-4, 2e-3, 6e-3)
SAMPLERS = ("none", "oversample")
LOSSES = ("cross_entropy", "focal")
PARAMETERS = ("frozen_stages", "lr_head", "lr_body", "sampler", "loss")
FRACTIONS = (0.2, 0.2, 0.6)
"""Shares of the people: train, validation, and those whom the table does not use."""


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Suggest one of the table's recipes. Learning rates are numbered steps, so that a sampler sees their order."""
    chosen: dict[str, Any] = {
        "frozen_stages": trial.suggest_categorical("frozen_stages", FROZEN_STAGES),
        "lr_head": LR_HEADS[trial.suggest_int("lr_head_step", 0, len(LR_HEADS) - 1)],
    }
    if chosen["frozen_stages"] < 5:
        chosen["lr_body"] = LR_BODIES[trial.suggest_int("lr_body_step", 0, len(LR_BODIES) - 1)]
    chosen["sampler"] = trial.suggest_categorical("sampler", SAMPLERS)
    chosen["loss"] = trial.suggest_categorical("loss", LOSSES)
    return chosen


SPACE = Space("recorded", "Which recipe of the recorded table is best?", suggest)


def every_recipe() -> Iterator[dict[str, Any]]:
    """The overrides of each recipe of the space, once."""
    for frozen, lr_head, sampler, loss in itertools.product(FROZEN_STAGES, LR_HEADS, SAMPLERS, LOSSES):
        for lr_body in LR_BODIES if frozen < 5 else (None,):
            body = {} if lr_body is None else {"lr_body": lr_body}
            yield {"frozen_stages": frozen, "lr_head": lr_head, **body, "sampler": sampler, "loss": loss}


def row_key(values: dict[str, Any]) -> tuple[Any, ...]:
    """The key of a row; where all stages are frozen, the body has no learning rate."""
    frozen = int(values["frozen_stages"])
    lr_body = None if frozen >= 5 or values.get("lr_body") in (None, "") else float(values["lr_body"])
    return frozen, float(values["lr_head"]), lr_body, values["sampler"], values["loss"]


@cache
def read_table(file: Path = TABLE) -> dict[tuple[Any, ...], tuple[float, ...]]:
    """Validation macro F1 of each epoch by `row_key`."""
    with file.open(newline="", encoding="utf-8") as lines:
        return {
            row_key(row): tuple(float(row[f"f1_{epoch}"]) for epoch in range(1, EPOCHS + 1))
            for row in csv.DictReader(lines)
        }


def recorded_objective(request: FitRequest) -> Generator[dict[str, Any], None, Any]:
    """An objective that reads its epochs from the table."""
    for epoch, f1 in enumerate(read_table()[row_key(request.recipe)], start=1):
        yield {"epoch": epoch, "validation_f1": f1}


def train_one(request: FitRequest, *, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The work of one row: the search's own objective."""
    yield from run_fit(replace(request, folder=request.checkpoint_folder), cache=cache, shared=False)
    return {}


def main(
    data: cli.Data = None,
    weights: cli.Weights = None,
    work: Annotated[
        Path, typer.Option(help="Where fits and decoded photos are kept until the table is written.")
    ] = Path("runs/recorded-table"),
    parallel: Annotated[int, typer.Option(help="Fits at a time.")] = 2,
    out: Annotated[Path, typer.Option(help="The table.")] = TABLE,
) -> None:
    """Train the recipes that are not trained yet, and write the table when all are."""
    work = work.absolute()
    faces = prepare(data, cache=CacheOptions(work / "cache"), progress=True)
    faces = replace(faces, split=split_people(faces.photos, 0, FRACTIONS))
    faces.save(work / "data")
    base = base_recipe(presets.resolve_weights(weights, data))
    faces.pixels(base.image_size, progress=True)
    asked = []
    for number, overrides in enumerate(every_recipe()):
        folder = work / "fits" / f"{number:03d}"
        recipe = base.override(overrides).model_dump()
        asked.append(FitRequest(f"{number:03d}", recipe, folder, work, 1, 0.0, {"overrides": overrides}))
    with cluster.connected(None):
        outcome = run_fits(asked, partial(train_one, cache=CacheOptions(work / "cache", 1.0)), parallel=parallel)
    if outcome.remaining:
        raise SystemExit(
            f"{outcome.remaining} of {len(asked)} recipes are left ({outcome.reason}); the same command trains them."
        )
    write_table(asked, out)
    typer.echo(f"{len(asked)} recipes in {out}")


def base_recipe(weights: str) -> Recipe:
    """The recipe that all rows share."""
    values = {"backbone": "mobilenetv3_small_100", "image_size": 64, "epochs": EPOCHS, "weights": weights}
    return presets.base_recipe("fine-tune", "cpu", values, demo=False)


def write_table(asked: list[FitRequest], out: Path) -> None:
    """Write one row per fit, in their order; the epochs that a diverged fit does not have count as 0."""
    with out.open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines, lineterminator="\n")
        table.writerow([*PARAMETERS, "state", *(f"f1_{epoch}" for epoch in range(1, EPOCHS + 1))])
        for request in asked:
            result = FitResult.read(request.folder)
            assert result is not None
            curve = [row["validation_f1"] for row in read_curve(request.folder)]
            curve += [0.0] * (EPOCHS - len(curve))
            values = json.loads(json.dumps(request.settings["overrides"]))
            table.writerow(
                [*(values.get(name, "") for name in PARAMETERS), result.state, *(f"{f1:.6f}" for f1 in curve)]
            )


if __name__ == "__main__":
    run(main)
