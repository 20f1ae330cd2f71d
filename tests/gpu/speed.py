"""Step `speed`: how near training comes to its limits: the same step on data that is on the GPU, and the GPU's peak."""

from __future__ import annotations

import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from maskcls.models.model import Model
from maskcls.training.fit_data import FitData
from tests.benchmarks.training import alternate
from tests.gpu.bench import Bench
from tests.gpu.device import nominal_tflop_per_s, product_tflop_per_s
from tests.gpu.findings import Findings
from tests.gpu.fits import new_fit

BACKWARD = 2
"""The backward pass takes twice the operations of the forward pass. torch's counter is asked for the forward pass
alone: of a convolution in 32 groups it counts 33 times the operations of the backward pass."""


def measure(bench: Bench, findings: Findings) -> None:
    """Alternate training from the store with steps on one batch, and divide by what the GPU could do."""
    sizes = bench.sizes
    recipe = bench.recipe(sizes.large, image_size=sizes.large_px, epochs=1000)
    fit = new_fit(bench, recipe, FitData.of(bench.dataset(), recipe))
    findings.measured("network", f"{sizes.large}, {sizes.large_px} px")
    findings.measured("loader processes", fit.loader_workers)
    loaded, fixed = alternate(fit, sizes.steps, sizes.rounds)
    spread = f"n = {sizes.rounds}, {min(loaded):.0f} to {max(loaded):.0f} against {min(fixed):.0f} to {max(fixed):.0f}"
    findings.measured("training with loading", statistics.median(loaded), "photos/s", spread)
    findings.measured("the step on data on the device", statistics.median(fixed), "photos/s", spread)
    findings.measured("share of that limit", statistics.median(a / b for a, b in zip(loaded, fixed, strict=True)))
    operations = (1 + BACKWARD) * forward_operations(fit.models[0], sizes.large_px)
    findings.measured("operations per photo in training", operations / 1e9, "GFLOP")
    done = operations * statistics.median(loaded) / 1e12
    findings.measured("training computes", done, "TFLOP/s")
    findings.measured("share of products in bfloat16, measured", done / product_tflop_per_s(bench, torch.bfloat16))
    peak = nominal_tflop_per_s(torch.cuda.get_device_name()) if bench.device == "cuda" else 0.0
    if peak:
        findings.measured("share of the bfloat16 peak", done / peak, note=f"{peak} TFLOP/s by the data sheet")


def forward_operations(model: Model, image_px: int) -> int:
    """Floating-point operations of one photo's forward pass; a product and a sum are two."""
    pixels = torch.zeros(1, image_px, image_px, 3, dtype=torch.uint8, device=model.mean.device)
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(pixels)
    return int(counter.get_total_flops())
