"""`python -m tests.benchmarks.cpu_precision`: training steps of a CPU in float32 and in bfloat16, photos per second.

One batch that stays in memory, as often in the one as in the other, in turn, by one thread, as a trial has it. The
ratio is what `maskcls.models.precision` decides by. Weights are random, because they change no time, and transformers
that take photos of one size are made for this one. ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 before the command hides the
matrix units of a CPU that has them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from maskcls.cli import run
from maskcls.data.dataset import prepare
from maskcls.data.demo.folder import draw
from maskcls.machine import set_threads
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.presets import base_recipe
from tests.benchmarks.report import summary, write
from tests.benchmarks.training import rate

BACKBONES = (
    *("resnet10t", "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "vgg11", "regnety_002"),
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"),
    *("efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100", "convnext_atto", "convnext_tiny"),
)
PRECISIONS = ("float32", "bfloat16")


def main(
    backbones: Annotated[str, typer.Option(help="timm model names.")] = ",".join(BACKBONES),
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    steps: Annotated[int, typer.Option(help="Training steps of a round, of 32 photos each.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds of each of the two, alternating.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/cpu_precision.json"),
) -> None:
    """Measure each backbone."""
    set_threads(1)
    found = {}
    print("| backbone | float32, photos/s | bfloat16, photos/s | ratio: median (least to most) | auto |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "faces", 12, seed=0)
        faces = prepare(Path(folder) / "faces", cache=CacheOptions(Path(folder) / "cache"))
        for backbone in backbones.split(","):
            explicit = {"weights": "none", "backbone": backbone, "image_size": image_size, "frozen_stages": 0}
            recipe = base_recipe("faces-2026", "cpu", explicit, demo=False)
            data = FitData.of(faces, recipe)
            fits = [Fit(recipe.override({"precision": each}), data).model_fits[0] for each in PRECISIONS]
            (auto,) = {fit.precision for fit in Fit(recipe, data).model_fits}
            batch = next(iter(fits[0].batches.epoch(0)))
            rates = [[rate(fit, [batch] * steps) for fit in fits] for _ in range(rounds + 1)][1:]
            ratios = [bfloat16 / float32 for float32, bfloat16 in rates]
            of_each = [summary(list(each)) for each in zip(*rates, strict=True)]
            found[backbone] = {**dict(zip(PRECISIONS, of_each, strict=True)), "ratio": summary(ratios)}
            means = " | ".join(f"{each['mean']:.1f} ± {each['sd']:.1f}" for each in of_each)
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {backbone} | {means} | {spread} | {str(auto).removeprefix('torch.')} |", flush=True)
    hidden = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    units = bool(torch.cpu.get_capabilities().get("amx_bf16")) and not hidden
    write(out, found, image_size=image_size, steps=steps, rounds=rounds, has_matrix_units=units)


if __name__ == "__main__":
    run(main)
