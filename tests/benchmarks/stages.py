"""`python -m tests.benchmarks.stages`: the cost of training with 0 to 5 stages frozen, here and in plain Ray Tune.

Milliseconds of one thread for each photo that is drawn: (plain) decoding and augmenting the file, the whole model
forward, and backward through what is not frozen, by `tests/benchmarks/plain_ray.py`; (first) a fit's first pass over
some batches, which decodes nothing but fills the stores of frozen features; (later) any later pass over them. Each
round measures all three for all six in turn, with new stores; the plain side runs in a process of its own, with the C
library's default handling of memory.

plain / later is the most that kept features can give a trial with so many frozen stages. The last line is the most that
they can give a search whose trials are spread evenly over all six: the rest is convolutions, which both sides train.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import typer
from torch.utils.data import DataLoader

from maskcls import cli
from maskcls.cli import run
from maskcls.data.dataset import prepare
from maskcls.labels import N_CLASSES
from maskcls.machine import set_threads
from maskcls.models.weights import find_weights
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.stores.features import FeatureStores
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.losses import create_loss
from maskcls.training.presets import VIEWS
from tests.benchmarks import plain_ray
from tests.benchmarks.report import summary, write

ALL_STAGES = range(6)
SIDES = ("plain", "first", "later")


def main(
    data: cli.Data = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of weights.", show_default="random weights")] = None,
    backbone: Annotated[str, typer.Option(help="timm model name.")] = "resnet10t",
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    batch_size: Annotated[int, typer.Option(help="photos")] = 64,
    steps: Annotated[int, typer.Option(help="Training steps of a measurement.")] = 8,
    rounds: Annotated[int, typer.Option(help="Rounds of all measurements.")] = 5,
    out: Annotated[Path, typer.Option(help="JSON record.")] = Path("runs/benchmarks/stages.json"),
) -> None:
    """Measure all sides for each number of frozen stages."""
    values = {
        "backbone": backbone,
        "image_size": image_size,
        "batch_size": batch_size,
        "epochs": 1000,
        "sampler": "oversample",
    }
    values |= {
        "weights": "none" if weights is None else str(weights.resolve()),
        "loss": "focal",
        "optimizer": "adam",
        "clip_norm": 5.0,
    }
    recipes = [Recipe().override({**values, "frozen_stages": n, "views": VIEWS if n else 0}) for n in ALL_STAGES]
    measured: dict[str, list[list[float]]] = {side: [[] for _ in ALL_STAGES] for side in SIDES}
    with _process() as ours, _process() as theirs, tempfile.TemporaryDirectory() as folder:
        faces = prepare(data, cache=CacheOptions(Path(folder) / "cache"))
        for number in range(rounds):
            for recipe in recipes:
                first, later = ours.submit(_first_and_later, recipe, faces, Path(folder) / str(number), steps).result()
                plain = theirs.submit(_plain, recipe, faces, steps).result()
                for side, taken in zip(SIDES, (plain, first, later), strict=True):
                    measured[side][recipe.frozen_stages].append(taken)
    evenly = [sum(of[i] for of in measured["plain"]) / sum(of[i] for of in measured["later"]) for i in range(rounds)]
    print(table(measured, evenly))
    results = {side: [summary(values) for values in of_each] for side, of_each in measured.items()}
    write(out, {**results, "plain / later, evenly": summary(evenly)}, recipe=recipes[0].model_dump(), steps=steps)


def _process() -> Executor:
    """A process that does one thing at a time, with one thread."""
    return ProcessPoolExecutor(1, get_context("spawn"), set_threads, (1,))


def _first_and_later(recipe: Any, faces: Any, cache: Path, steps: int) -> tuple[float, float]:
    """Milliseconds a photo."""
    fit = Fit(recipe, FitData.of(faces, recipe), stores=FeatureStores(cache, shared=True)).model_fits[0]
    assert (fit.training_cache.features is None) == (recipe.frozen_stages == 0), fit.training_cache.reason
    fit.model.train()
    first, later = (_ms(fit.step, fit.batches.epoch(0), steps) for _ in range(2))
    assert not fit.cache_trouble, fit.cache_trouble
    shutil.rmtree(cache, ignore_errors=True)
    return first, later


def _plain(recipe: Any, faces: Any, steps: int) -> float:
    """Milliseconds a photo."""
    rows = faces.rows("train")
    files, labels = (faces.photos[name].to_numpy()[rows].tolist() for name in ("file", "label"))
    photos = plain_ray.Photos(files, labels, plain_ray.transform(recipe, training=True))
    loader = DataLoader(photos, recipe.batch_size, sampler=plain_ray.Draws(recipe, labels))
    file = None if recipe.weights == "none" else str(find_weights(recipe.backbone, recipe.weights))
    model = plain_ray.Classifier(recipe, file).train()
    criterion = create_loss(recipe, torch.tensor(labels), N_CLASSES)
    optimizer = plain_ray.create_optimizer(recipe, model)
    return _ms(lambda images, truth: plain_ray.step(model, images, truth, criterion, optimizer, recipe), loader, steps)


def _ms(step: Any, batches: Iterable[Any], steps: int) -> float:
    """Milliseconds per photo over so many batches."""
    photos, began = 0, perf_counter()
    for batch in islice(batches, steps):
        step(*batch)
        photos += len(batch[1])
    return 1e3 * (perf_counter() - began) / photos


def table(measured: dict[str, list[list[float]]], evenly: list[float]) -> str:
    """One line per number of frozen stages: medians, and the range of the ratio."""
    lines = [f"{'frozen stages':14}{'plain, ms':>12}{'first, ms':>12}{'later, ms':>12}{'plain / later':>26}"]
    for n in ALL_STAGES:
        plain, first, later = (measured[side][n] for side in SIDES)
        ratios = [a / b for a, b in zip(plain, later, strict=True)]
        cells = "".join(f"{statistics.median(values):12.2f}" for values in (plain, first, later))
        lines.append(f"{n:<14}{cells}{_spread(ratios):>26}")
    return "\n".join([*lines, f"One trial of each, plain / later: {_spread(evenly)}, n = {len(evenly)}"])


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    run(main)
