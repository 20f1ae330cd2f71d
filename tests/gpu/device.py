"""Step `device`: what the device can do at best, measured: products of matrices, and copies to it."""

from __future__ import annotations

from time import perf_counter

import torch

from maskcls.machine import matrix_precision
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings

PEAK_TFLOP_PER_S = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L4": 121.0, "A10G": 70.0, "T4": 0.0}
"""Dense bfloat16 products by the vendor's data sheets, of the SXM parts where there are several; T4 has none."""
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**20}
PRODUCTS = 10


def measure(bench: Bench, findings: Findings) -> None:
    """Time products in bfloat16, TF32 and float32, and a copy from pinned memory."""
    if bench.device == "cuda":
        found = torch.cuda.get_device_properties(0)
        findings.measured("name", found.name, note=f"compute capability {found.major}.{found.minor}")
        findings.measured("memory", found.total_memory / 1e9, "GB")
        findings.check("bfloat16 in hardware", torch.cuda.is_bf16_supported(including_emulation=False))
        peak = nominal_tflop_per_s(found.name)
        if peak:
            findings.measured("bfloat16 peak by the data sheet", peak, "TFLOP/s")
    findings.measured("products in bfloat16", product_tflop_per_s(bench, torch.bfloat16), "TFLOP/s")
    findings.measured("products in float32", product_tflop_per_s(bench, torch.float32), "TFLOP/s")
    with matrix_precision():
        findings.measured("products in float32 with TF32", product_tflop_per_s(bench, torch.float32), "TFLOP/s")
    findings.measured("copy from the host", copy_gb_per_s(bench), "GB/s")


def nominal_tflop_per_s(name: str) -> float:
    """Peak of dense bfloat16 products of a GPU by its name; 0 if it is not known."""
    words = name.replace("-", " ").split()
    return next((peak for model, peak in PEAK_TFLOP_PER_S.items() if model in words), 0.0)


def product_tflop_per_s(bench: Bench, dtype: torch.dtype) -> float:
    """10^12 floating-point operations per second of square matrices' products; random, because zeros are faster."""
    n = bench.sizes.matrix
    generator = torch.Generator(bench.device).manual_seed(0)
    a, b = (torch.randn(n, n, device=bench.device, generator=generator).to(dtype) for _ in range(2))
    torch.mm(a, b)
    bench.synchronise()
    began = perf_counter()
    for _ in range(PRODUCTS):
        torch.mm(a, b)
    bench.synchronise()
    return PRODUCTS * 2 * n**3 / (perf_counter() - began) / 1e12


def copy_gb_per_s(bench: Bench) -> float:
    """10^9 bytes per second from the host's memory, pinned where there is a GPU, to the device."""
    source = torch.zeros(COPIED_BYTES[bench.device], dtype=torch.uint8, pin_memory=bench.device == "cuda")
    target = torch.empty_like(source, device=bench.device)
    target.copy_(source)
    bench.synchronise()
    began = perf_counter()
    target.copy_(source)
    bench.synchronise()
    return source.numel() / (perf_counter() - began) / 1e9
