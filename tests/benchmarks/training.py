"""`python -m tests.benchmarks.training`: photos per second of training, beside the bare training step.

(c) training from the store: draw, augment, batch, step. (d) the step alone, on one batch that stays in the device's
memory, as often. c/d is the figure: what feeding the model costs. Rounds of the two alternate, so that a drift in the
machine's speed affects both.
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.dataset import prepare
from maskcls.machine import default_loader_workers, resolve_device, set_threads
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.presets import resolve_weights
from tests.benchmarks.report import summary, table, write


def main(
    data: cli.Data = None,
    weights: cli.Weights = None,
    backbone: Annotated[str, typer.Option(help="timm model name.")] = "resnet10t",
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    frozen_stages: Annotated[int, typer.Option(help="0: the whole backbone trains.")] = 0,
    batch_size: Annotated[int, typer.Option(help="photos")] = 32,
    steps: Annotated[int, typer.Option(help="Training steps of a round.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds of each of the two, alternating.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    loader_workers: Annotated[
        int | None, typer.Option(help="Processes that augment.", show_default="as a fit has it")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/training.json"),
) -> None:
    """Measure (c), (d) and c/d."""
    device = resolve_device(device)
    set_threads(threads)
    recipe = Recipe().override(
        {
            "backbone": backbone,
            "image_size": image_size,
            "frozen_stages": frozen_stages,
            "batch_size": batch_size,
            "epochs": 1000,
        }
        | {"weights": resolve_weights(weights, data), "loss": "focal", "sampler": "oversample"}
    )
    workers = default_loader_workers(device) if loader_workers is None else loader_workers
    with tempfile.TemporaryDirectory() as cache:
        fit = Fit(
            recipe,
            FitData.of(prepare(data, cache=CacheOptions(Path(cache))), recipe),
            device=device,
            loader_workers=workers,
        )
        stored, fixed = alternate(fit, steps, rounds)
    ratios = [c / d for c, d in zip(stored, fixed, strict=True)]
    results = {"(c) training from the store": summary(stored), "(d) one batch in memory": summary(fixed)}
    print(table(results))
    print(f"c/d: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n = {rounds}")
    write(
        out,
        {**results, "c/d": summary(ratios)},
        recipe=recipe.model_dump(),
        threads=threads,
        loader_workers=workers,
        device=device,
    )


def alternate(fit, steps: int, rounds: int) -> tuple[list[float], list[float]]:  # type: ignore[no-untyped-def]
    """Photos per second of each round of (c) and of (d), after one round of each that does not count."""
    model_fit = fit.model_fits[0]
    batches = (batch for epoch in cycle([0]) for batch in model_fit.batches.epoch(epoch))
    first = [tensor.to(model_fit.device) for tensor in next(batches)]
    stored, fixed = [], []
    model_fit.model.train()
    for _ in range(rounds + 1):
        stored.append(rate(model_fit, islice(batches, steps)))
        fixed.append(rate(model_fit, [first] * steps))
    return stored[1:], fixed[1:]


def rate(model_fit, batches) -> float:  # type: ignore[no-untyped-def]
    """Photos per second of the training step over the batches, to the end of the last step on the device."""
    started = perf_counter()
    photos = 0
    for pixels, positions in batches:
        loss = model_fit.step(pixels, positions)
        photos += len(positions)
    loss.item()
    return photos / (perf_counter() - started)


if __name__ == "__main__":
    run(main)
