"""Which device a fit runs on, and how many threads it takes there."""

import os

from maskcls.errors import CallError


def resolve_device(device: str) -> str:
    """`auto` is the first GPU, or the CPU where there is none. Raises CallError where torch cannot use it."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CallError(f"--device {device} cannot be used: {str(error).splitlines()[0]}. Expected auto, cpu, cuda or cuda:N.") from None
    return device


def set_threads(n: int) -> None:
    """Let torch and BLAS use n threads of this process; OpenCV none of its own, since photos are augmented in parallel."""
    import cv2
    import torch

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(n)
    torch.set_num_threads(n)
    cv2.setNumThreads(0)


def default_loader_workers(device: str, cpus: int | None = None) -> int:
    """Processes that augment beside the one that trains: on a GPU all cores but one, on the CPU none, since the step wants the cores."""
    cores = len(os.sched_getaffinity(0)) if cpus is None else cpus
    return max(cores - 1, 0) if device.startswith("cuda") else 0
