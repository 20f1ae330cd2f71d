"""Recorded tables of real results: every recipe of a small space trained once on real faces, its curve kept.

    python -m tests.benchmarks.recorded_table --table stages --data DIR --weights DIR     # an hour on two cores
    python -m tests.benchmarks.recorded_table --table splits --data DIR --weights DIR     # minutes on one core

Both have 93 people to train on and 92 to validate on, at 64 px. `stages` (208 recipes) fine-tunes MobileNetV3-small for
eight epochs; its trials differ in how many stages are frozen. `splits` (192) trains heads on a frozen resnet10t for
sixteen epochs; its trials differ in the task split, so that one trains one to five models. A table,
`recorded_<name>.csv` beside this file, has one row per recipe: its parameters, the CPU seconds of an epoch (median) and
the validation macro F1 of each epoch.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.dataset import prepare
from maskcls.data.splits import split_people
from maskcls.recipe import N_STAGES, Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training import presets
from search_spaces import Setting, Space, Suggest
from tests.search_spaces.draws import Fixed
from tune.fitting.curve import read_curve
from tune.fitting.pool import run_fits
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.fitting.worker import run_fit
from tune.runs import cluster
from tune.search.points import every_point

SETTING = Setting("cpu")
FROZEN_STAGES = (0, 1, 3, 5)
LR_HEADS = (5e-4, 1.5e-3, 5e-3, 1.5e-2)
LR_BODIES = (2e-4, 6e-4, 2e-3, 6e-3)
SAMPLERS = ("none", "oversample")
LOSSES = ("cross_entropy", "focal")
TASK_SPLITS = ("single", "mask_genderage", "three", "five_binary")
"""Of one, two, three and five models."""
FROZEN_LR_HEADS = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
FRACTIONS = (0.2, 0.2, 0.6)
"""Shares of the people: train, validation, and those whom a table does not use."""


@dataclass(frozen=True)
class Recorded:
    """What is known of one recipe."""

    f1: tuple[float, ...]
    """Validation macro F1 of each epoch; 0 for those that a diverged fit does not have."""
    cpu_s: float
    """CPU seconds of an epoch, of training and validation."""


@dataclass(frozen=True)
class Table:
    """A finite space, and what each of its recipes scored."""

    name: str
    space: Space
    parameters: tuple[str, ...]
    """The recipe keys in which its recipes differ: the first columns of the file."""
    shared: Mapping[str, Any]
    """Recipe values that all have."""
    first: Mapping[str, Any]
    """Overrides of trial 0: a recipe in the middle of the table."""
    points: tuple[Mapping[str, Any], ...] = field(default=())
    """Points of the space near those of the space `freezing`."""

    @property
    def file(self) -> Path:
        """Where the table lies."""
        return Path(__file__).with_name(f"recorded_{self.name}.csv")

    @property
    def epochs(self) -> int:
        """Of every recipe."""
        return int(self.shared["epochs"])

    def base_recipe(self, weights: str = "none") -> Recipe:
        """The recipe that all rows share."""
        return presets.base_recipe("fine-tune", "cpu", {**self.shared, "weights": weights}, demo=False)

    def every_recipe(self) -> Iterator[dict[str, Any]]:
        """The overrides of each recipe of the space, once."""
        for point in every_point(self.space, SETTING):
            yield dict(self.space.suggest(Fixed(**point), SETTING))

    def key(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The key of a row, from a recipe's values or a row of the file. A body that is frozen has no learning rate."""
        frozen = int(values.get("frozen_stages", 0)) >= N_STAGES
        return tuple("" if name == "lr_body" and frozen else _text(values[name]) for name in self.parameters)

    @cached_property
    def rows(self) -> dict[tuple[str, ...], Recorded]:
        """What the file holds, by `key`."""
        with self.file.open(newline="", encoding="utf-8") as lines:
            return {
                self.key(row): Recorded(
                    tuple(float(row[f"f1_{epoch}"]) for epoch in range(1, self.epochs + 1)), float(row["cpu_s"])
                )
                for row in csv.DictReader(lines)
            }


def _text(value: Any) -> str:
    """A value as text, the same for a number and for what a file has of it."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return str(value)


def _suggest_stages(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Suggest a recipe of `stages`. Learning rates are numbered steps, so that a sampler sees their order."""
    chosen: dict[str, Any] = {
        "frozen_stages": trial.suggest_categorical("frozen_stages", FROZEN_STAGES),
        "lr_head": LR_HEADS[trial.suggest_int("lr_head_step", 0, len(LR_HEADS) - 1)],
    }
    if chosen["frozen_stages"] < N_STAGES:
        chosen["lr_body"] = LR_BODIES[trial.suggest_int("lr_body_step", 0, len(LR_BODIES) - 1)]
    chosen["sampler"] = trial.suggest_categorical("sampler", SAMPLERS)
    chosen["loss"] = trial.suggest_categorical("loss", LOSSES)
    return chosen


def _suggest_splits(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Suggest a recipe of `splits`."""
    return {
        "task_split": trial.suggest_categorical("task_split", TASK_SPLITS),
        "head": trial.suggest_categorical("head", ("linear", "mlp")),
        "lr_head": FROZEN_LR_HEADS[trial.suggest_int("lr_head_step", 0, len(FROZEN_LR_HEADS) - 1)],
        "sampler": trial.suggest_categorical("sampler", SAMPLERS),
        "loss": trial.suggest_categorical("loss", LOSSES),
    }


STAGES = Table(
    "stages",
    Space("stages", "Which recipe of the recorded table is best?", _suggest_stages),
    ("frozen_stages", "lr_head", "lr_body", "sampler", "loss"),
    {"backbone": "mobilenetv3_small_100", "image_size": 64, "epochs": 8},
    {"frozen_stages": 3, "lr_head": 1.5e-3, "lr_body": 6e-4, "sampler": "none", "loss": "cross_entropy"},
    (
        {"frozen_stages": 1, "lr_head_step": 1, "lr_body_step": 1, "sampler": "none", "loss": "cross_entropy"},
        {"frozen_stages": 3, "lr_head_step": 1, "lr_body_step": 2, "sampler": "none", "loss": "cross_entropy"},
        {"frozen_stages": 0, "lr_head_step": 1, "lr_body_step": 2, "sampler": "none", "loss": "cross_entropy"},
    ),
)
SPLITS = Table(
    "splits",
    Space("splits", "Which recipe of the recorded table is best?", _suggest_splits),
    ("task_split", "head", "lr_head", "sampler", "loss"),
    {
        "backbone": "resnet10t",
        "image_size": 64,
        "epochs": 16,
        "batch_size": 64,
        "frozen_stages": N_STAGES,
        "views": presets.VIEWS,
        "head_width": 512,
        "head_dropout": 0.5,
    },
    {"task_split": "single", "head": "mlp", "lr_head": 1e-3, "sampler": "none", "loss": "cross_entropy"},
)
TABLES = {table.name: table for table in (STAGES, SPLITS)}


def recorded_objective(request: FitRequest) -> Generator[dict[str, Any], None, Any]:
    """An objective for the real driver that reads its epochs from the table `stages`."""
    for epoch, f1 in enumerate(STAGES.rows[STAGES.key(request.recipe)].f1, start=1):
        yield {"epoch": epoch, "validation_f1": f1}


def train_one(request: FitRequest, *, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The work of one row: the search's own objective, with the CPU seconds of each epoch.

    Those of the first one include building the model.
    """
    began = process_time()
    for row in run_fit(replace(request, folder=request.checkpoint_folder), cache=cache):
        now = process_time()
        yield {**row, "cpu_s": now - began}
        began = process_time()
    return {}


def main(
    data: cli.Data = None,
    weights: cli.Weights = None,
    name: Annotated[str, typer.Option("--table", help=f"{' or '.join(TABLES)}.")] = "splits",
    work: Annotated[
        Path, typer.Option(help="Where fits and decoded photos are kept until the table is written.")
    ] = Path("runs/recorded-table"),
    parallel: Annotated[int, typer.Option(help="Fits at a time, with one thread each.")] = 2,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after that time; the same command goes on.", show_default="no bound")
    ] = None,
) -> None:
    """Train the recipes that are not trained yet, and write the table when all are."""
    table, work = TABLES[name], work.absolute() / name
    faces = prepare(data, cache=CacheOptions(work / "cache"), progress=True)
    faces = replace(faces, split=split_people(faces.photos, 0, FRACTIONS))
    faces.save(work / "data")
    base = table.base_recipe(presets.resolve_weights(weights, data))
    faces.pixels(base.image_size, progress=True)
    asked = []
    for number, overrides in enumerate(table.every_recipe()):
        folder = work / "fits" / f"{number:03d}"
        recipe = base.override(overrides).model_dump()
        asked.append(FitRequest(f"{number:03d}", recipe, folder, work, 1, 0.0, {"overrides": overrides}))
    with cluster.connected(None):
        fit = partial(train_one, cache=CacheOptions(work / "cache", 1.0))
        outcome = run_fits(asked, fit, parallel=parallel, budget_s=minutes and 60 * minutes)
    if outcome.remaining:
        raise SystemExit(
            f"{outcome.remaining} of {len(asked)} recipes are left ({outcome.reason}); the same command trains them."
        )
    write_table(table, asked)
    typer.echo(f"{len(asked)} recipes in {table.file}")


def write_table(table: Table, asked: list[FitRequest]) -> None:
    """Write one row per fit, in their order; the epochs that a diverged fit does not have count as 0."""
    with table.file.open("w", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow([*table.parameters, "state", "cpu_s", *(f"f1_{epoch}" for epoch in range(1, table.epochs + 1))])
        for request in asked:
            result = FitResult.read(request.folder)
            assert result is not None
            epochs = read_curve(request.folder)
            curve = [row["validation_f1"] for row in epochs]
            curve += [0.0] * (table.epochs - len(curve))
            overrides = request.settings["overrides"]
            cells = [*(overrides.get(key, "") for key in table.parameters), result.state]
            rows.writerow([*cells, f"{median(row['cpu_s'] for row in epochs):.4f}", *(f"{f1:.6f}" for f1 in curve)])


if __name__ == "__main__":
    run(main)
