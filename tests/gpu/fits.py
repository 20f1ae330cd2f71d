"""Step `fits`: whole fits of a ResNet, an EfficientNet, a ConvNeXt and a ViT in bfloat16, from random weights.

Each leaves its checkpoint, which the step `resume` compares with another fit's.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from maskcls.machine import default_loader_workers, set_threads, usable_cores, use_deterministic_kernels
from maskcls.recipe import Recipe
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings


def measure(bench: Bench, findings: Findings) -> None:
    """Fit each network, epoch by epoch."""
    dataset = bench.dataset()
    findings.measured("photos trained on", len(dataset.rows("train")))
    for network in bench.sizes.networks:
        fit = new_fit(bench, bench.recipe(network), FitData.of(dataset, bench.recipe(network)))
        if bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        results = list(fit.epochs(checkpoint(bench, network)))
        last = results[-1]
        findings.measured(f"{network}: training", last.photos_per_second, "photos/s", f"epoch {last.epoch}")
        validating_s = last.seconds - last.photos / last.photos_per_second
        findings.measured(f"{network}: validation", validating_s / last.seconds, "of the epoch")
        if bench.device == "cuda":
            findings.measured(f"{network}: memory", torch.cuda.max_memory_reserved() / 1e9, "GB")
        finite = all(math.isfinite(result.train_loss) for result in results)
        findings.check(f"{network}: losses are finite", finite, last.train_loss)
        del fit


def new_fit(bench: Bench, recipe: Recipe, data: FitData, *, at_once: int = 1) -> Fit:
    """A fit as a trial has it: deterministic kernels, and loader processes on all cores but one.

    Args:
        at_once: fits that share the machine.
    """
    cores = max(1, usable_cores() // at_once)
    set_threads(cores)
    use_deterministic_kernels()
    return Fit(recipe, data, bench.device, default_loader_workers(bench.device, cores))


def checkpoint(bench: Bench, network: str) -> Path:
    """Where the network's fit has its checkpoint."""
    return bench.folder / "fits" / network
