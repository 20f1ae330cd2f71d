"""`python -m tests.benchmarks.precision`: what a coarser arithmetic in validation changes of classes and scores.

Trains each backbone for some epochs in float32, then validates its last epoch in float32, with TF32 and in bfloat16.
On a CPU, which has no TF32, the inputs and weights of all convolutions and linear layers are rounded to TF32's 10 bits
of mantissa; sums stay in float32, as on a GPU. bfloat16 is torch's autocast.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any
from unittest import mock

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from maskcls import cli
from maskcls.cli import run
from maskcls.data.dataset import prepare
from maskcls.machine import set_threads
from maskcls.models.model import log_probabilities
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.metrics import scores
from maskcls.training.presets import resolve_weights
from tests.benchmarks.report import write

WAYS = ("float32", "tf32", "bfloat16")
TF32_DROPPED_BITS = 13
"""Of float32's 23 bits of mantissa."""


@dataclass(frozen=True)
class Validated:
    """One validation: log probabilities (n, 18), macro F1, and its seconds."""

    log_probs: NDArray[np.float64]
    f1: float
    seconds: float


def main(
    data: cli.Data = None,
    weights: cli.Weights = None,
    backbones: Annotated[str, typer.Option(help="timm model names.")] = "resnet10t,mobilenetv3_small_100",
    image_size: Annotated[int, typer.Option(help="px")] = 64,
    epochs: Annotated[int, typer.Option(help="Epochs before the validation.")] = 3,
    seeds: Annotated[int, typer.Option(help="Fits of each backbone.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    cache: Annotated[Path, typer.Option(help="Where photos are decoded.")] = Path("runs/benchmarks/precision-cache"),
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/precision.json"),
) -> None:
    """Fit, validate in each way, and print one line per way and fit."""
    set_threads(threads)
    faces = prepare(data, cache=CacheOptions(cache))
    chosen = {"image_size": image_size, "epochs": epochs, "weights": resolve_weights(weights, data), "frozen_stages": 0}
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS[1:]}
    print(f"{'':24}{'way':>10}{'other classes':>15}{'F1 - float32':>14}{'log p differ by':>17}")
    for backbone in backbones.split(","):
        for seed in range(seeds):
            recipe = Recipe().override({**chosen, "backbone": backbone, "seed": seed, "lr_body": 1e-3, "lr_head": 2e-3})
            fit = Fit(recipe, FitData.of(faces, recipe))
            list(fit.epochs())
            exact = validated(fit, "float32")
            for way in WAYS[1:]:
                found = compared(validated(fit, way), exact)
                results[way].append({"backbone": backbone, "seed": seed, "f1": exact.f1, **found})
                print(
                    f"{backbone + f', seed {seed}':24}{way:>10}{found['other_classes']:>11} / {found['photos']}"
                    f"{found['f1_difference']:>+14.4f}{found['log_p_difference']:>17.2g}",
                    flush=True,
                )
    for way, each in results.items():
        differences = [abs(one["f1_difference"]) for one in each]
        print(f"{way}: |F1 - float32|, mean {statistics.fmean(differences):.4f}, largest {max(differences):.4f}")
    write(out, results, image_size=image_size, epochs=epochs, threads=threads)


def validated(fit: Fit, way: str) -> Validated:
    """Validate the fit's latest weights in one of WAYS."""
    autocast: Callable[[], AbstractContextManager[object]] = (
        (lambda: torch.autocast(fit.device.partition(":")[0], torch.bfloat16)) if way == "bfloat16" else nullcontext
    )
    rounded = way == "tf32" and fit.device == "cpu"
    with convolution_precision("ieee" if way == "float32" else "tf32"), ExitStack() as stack:
        if way == "float32":
            stack.enter_context(mock.patch("maskcls.models.model.matrix_precision", nullcontext))
        for model in fit.eval_models if rounded else ():
            stack.enter_context(rounded_to_tf32(model))
        began = perf_counter()
        with autocast():
            log_probs = log_probabilities(
                fit.eval_models, fit.recipe.split, fit.data.pixels, fit.data.validation, join=fit.recipe.join
            )
        seconds = perf_counter() - began
    truth = fit.data.labels[fit.data.validation]
    return Validated(log_probs, scores(truth, log_probs.argmax(1)).f1, seconds)


def compared(found: Validated, exact: Validated) -> dict[str, Any]:
    """How many photos get another class, and by how much F1 and log probabilities (the median photo's) differ."""
    differences = np.abs(found.log_probs - exact.log_probs).max(1)  # (n,)
    return {
        "photos": len(exact.log_probs),
        "other_classes": int((found.log_probs.argmax(1) != exact.log_probs.argmax(1)).sum()),
        "f1_difference": found.f1 - exact.f1,
        "log_p_difference": float(np.median(differences)),
    }


@contextmanager
def convolution_precision(precision: str) -> Iterator[None]:
    """Let a GPU compute convolutions inside the block with TF32 (torch's default), or without (`ieee`)."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = precision
    try:
        yield
    finally:
        convolutions.fp32_precision = before


@contextmanager
def rounded_to_tf32(model: nn.Module) -> Iterator[None]:
    """Inside the block, inputs and weights of the model's convolutions and linear layers are rounded to TF32."""
    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    weights = [layer.weight.data for layer in layers]
    hooks = [layer.register_forward_pre_hook(lambda _, given: (to_tf32(given[0]),)) for layer in layers]
    for layer in layers:
        layer.weight.data = to_tf32(layer.weight.data)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.data = weight


def to_tf32(tensor: Tensor) -> Tensor:
    """The tensor with 10 bits of mantissa, rounded to the nearest, halves away from zero."""
    bits = tensor.view(torch.int32)
    half = 1 << (TF32_DROPPED_BITS - 1)
    return ((bits + half) & ~((1 << TF32_DROPPED_BITS) - 1)).view(torch.float32)


if __name__ == "__main__":
    run(main)
