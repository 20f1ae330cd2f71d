"""Step `attention`: what attention by its plain formula costs, and which kernels give the same bits twice.

Fits use the plain formula on a GPU (`maskcls.machine.use_deterministic_kernels`), because the fused kernels' backward
passes add in any order. Here each kernel trains the same network on the same batch.
"""

from __future__ import annotations

import statistics
from time import perf_counter

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from maskcls.machine import use_deterministic_kernels
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings

KERNELS = {
    "cuda": (
        SDPBackend.MATH,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ),
    "cpu": (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION),
}
REPEATS = 3
"""How often the gradients of the same step are computed."""


def measure(bench: Bench, findings: Findings) -> None:
    """For each kernel: milliseconds of a step, its memory, and whether gradients of the same step are the same."""
    use_deterministic_kernels()  # of convolutions; which attention is allowed, `sdpa_kernel` says
    findings.measured("network", f"{bench.sizes.transformer}, batches of {bench.sizes.batch}, bfloat16")
    step_ms: dict[SDPBackend, float] = {}
    for kernel in KERNELS[bench.device]:
        name = kernel.name.lower().replace("_", " ")
        try:
            with sdpa_kernel(kernel):
                step_ms[kernel], differing = _trained(bench)
        except RuntimeError as error:
            findings.measured(name, "does not run", note=str(error).splitlines()[0])
            continue
        findings.measured(f"{name}: a training step", step_ms[kernel], "ms")
        if bench.device == "cuda":
            findings.measured(f"{name}: memory", torch.cuda.max_memory_reserved() / 1e9, "GB")
        if kernel == SDPBackend.MATH:
            findings.check(f"{name}: the same bits {REPEATS} times", differing == 0, note=f"{differing} tensors differ")
        else:
            findings.measured(f"{name}: tensors of gradients that differ", differing)
    others = [step_ms[kernel] for kernel in step_ms if kernel != SDPBackend.MATH]
    if others and SDPBackend.MATH in step_ms:
        findings.measured("the plain formula / the fastest other", step_ms[SDPBackend.MATH] / min(others))


def _trained(bench: Bench) -> tuple[float, int]:
    """Milliseconds of a step (the median of all rounds), and gradients' tensors that are not always the same."""
    torch.manual_seed(0)
    model = timm.create_model(bench.sizes.transformer).to(bench.device)
    edge = bench.sizes.transformer_px
    images = torch.randn(bench.sizes.batch, 3, edge, edge, device=bench.device)
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    first = _gradients(bench, model, images)
    repeated = [_gradients(bench, model, images) for _ in range(REPEATS - 1)]
    differing = sum(
        any(not torch.equal(gradient, each[number]) for each in repeated) for number, gradient in enumerate(first)
    )
    seconds = []
    for _ in range(bench.sizes.rounds):
        bench.synchronise()
        began = perf_counter()
        for _ in range(bench.sizes.steps):
            _gradients(bench, model, images)
        bench.synchronise()
        seconds.append((perf_counter() - began) / bench.sizes.steps)
    return 1e3 * statistics.median(seconds), differing


def _gradients(bench: Bench, model: nn.Module, images: Tensor) -> list[Tensor]:
    """The gradient of each parameter for the sum of squared outputs."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(bench.device, torch.bfloat16):
        outputs = model(images)
    outputs.float().square().sum().backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
