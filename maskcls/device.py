"""Which device a fit runs on, what that is called, how many threads it takes there, and which kernels."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from maskcls.errors import CallError


def resolve_device(device: str) -> str:
    """`auto` is the first GPU, or the CPU where there is none. Raises CallError where torch cannot use it."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CallError(
            f"--device {device} cannot be used: {str(error).splitlines()[0]}. Expected auto, cpu, cuda or cuda:N."
        ) from None
    return device


def set_threads(n: int) -> None:
    """Let torch and BLAS use n threads of this process; OpenCV none of its own, since photos are augmented in parallel."""
    import cv2
    import torch

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(n)
    torch.set_num_threads(n)
    cv2.setNumThreads(0)


def use_deterministic_kernels() -> None:
    """Let cuDNN choose by a rule, not by timing, and only among kernels that add in one order; nothing changes on a CPU."""
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def default_loader_workers(device: str, cpus: int | None = None) -> int:
    """Processes that augment beside the one that trains: on a GPU all cores but one, on the CPU none, since the step wants the cores."""
    cores = len(os.sched_getaffinity(0)) if cpus is None else cpus
    return max(cores - 1, 0) if device.startswith("cuda") else 0


def hardware_name(device: str) -> str:
    """The GPU's name; the CPU's model, with the instructions that torch uses of it, on which its last bits hang."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}"


def library_versions(device: str) -> dict[str, str]:
    """Of what torch computes with on a GPU: CUDA and cuDNN; nothing on a CPU, where torch brings its own."""
    import torch

    if not device.startswith("cuda"):
        return {}
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}


def _cpu_model() -> str:
    """As Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
