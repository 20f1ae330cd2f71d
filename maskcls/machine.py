"""What this machine has (cores, memory, devices, libraries), how a process uses it (threads, kernels, freed memory),
and what energy it takes."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil

from maskcls.errors import CallError

_CGROUPS = Path("/sys/fs/cgroup")
_CPU_MAX = _CGROUPS / "cpu.max"
_PROC = Path("/proc")
# Files of a control group by its version, 2 and 1.
_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")
_MEMORY_USED = ("memory.current", "memory.usage_in_bytes")
_MEMORY_KILLS = ("memory.events", "memory.oom_control")
_DROPPABLE = ("total_inactive_file", "inactive_file")
"""Lines of `memory.stat`, the first of version 1 alone, which counts the groups below as well."""
POWERCAP = Path("/sys/class/powercap")
SAMPLED_EACH_S = 20.0
_POWER_QUERY = ("--query-gpu=power.draw", "--format=csv,noheader,nounits")

# mallopt's parameters, from malloc.h of glibc; its manual, "Malloc Tunable Parameters"
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
NEVER, LARGEST_BLOCK = -1, 1 << 30
# The heap of a thread other than the first: its free end is returned whole, unless less than the pad would be left.
THREAD_HEAP = 64 << 20


def usable_cores() -> int:
    """Count the cores that this process may use: those of its affinity, or fewer if its container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, quota(_CPU_MAX) or cores)


def quota(file: Path) -> int | None:
    """Whole cores of a cgroup's quota, as in `200000 100000`; None without one (`max 100000`, or no such file)."""
    try:
        quota, period = file.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def memory_groups(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> list[Path]:
    """Return the folders of the control groups that bound this process's memory, its own first, then those above it.

    Of both versions of Linux's control groups; none where the kernel has none. In a container the path that the kernel
    gives may be the host's, of which only the upper end can be seen.
    """
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return []
    paths = {controllers: path for _, controllers, path in lines}
    # A version 1 that counts memory goes before version 2, which then does not.
    base, path = (cgroups / "memory", paths["memory"]) if "memory" in paths else (cgroups, paths.get("", "/"))
    below = [part for part in path.split("/") if part]
    found = [base.joinpath(*below[:n]) for n in range(len(below), -1, -1)]
    return [folder for folder in found if any((folder / name).exists() for name in _MEMORY_LIMITS)]


def available_memory(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int:
    """Return how many bytes this process and its children may still take: the machine's, or fewer in a container.

    What the kernel keeps of files and can drop counts as available.
    """
    rooms = [int(psutil.virtual_memory().available)]
    for folder in memory_groups(cgroups, proc):
        limit, used = _first_number(folder, _MEMORY_LIMITS), _first_number(folder, _MEMORY_USED)
        if limit is not None and used is not None:
            counts = _counts(folder / "memory.stat")
            droppable = next((counts[name] for name in _DROPPABLE if name in counts), 0)
            rooms.append(max(0, limit - max(0, used - droppable)))
    return min(rooms)


def memory_kills(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int:
    """Return how many processes the kernel has ended because memory was short.

    In this process's control group where the kernel counts them there, else on the machine, since it was started.
    """
    files = [folder / name for folder in memory_groups(cgroups, proc)[:1] for name in _MEMORY_KILLS]
    counts = (_counts(file).get("oom_kill") for file in (*files, proc / "vmstat"))
    return next((count for count in counts if count is not None), 0)


def process_space() -> str:
    """Return what a process's number is unique in: this system since its start, and the namespace of a container.

    "" where the system does not say.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def _first_number(folder: Path, names: tuple[str, ...]) -> int | None:
    return next((number for name in names if (number := _number_in(folder / name)) is not None), None)


def _counts(file: Path) -> dict[str, int]:
    """A file of the kernel with a name and a number in each line; empty if there is none."""
    try:
        words = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {name: int(number) for name, number in (pair for pair in words if len(pair) == 2) if number.isdigit()}


def resolve_device(device: str) -> str:
    """Return the device's name; `auto` is the first GPU, or the CPU without one.

    Raises CallError where torch cannot use it.
    """
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
    """Let torch and BLAS use n threads in this process, and OpenCV none: photos are augmented in parallel."""
    import cv2
    import torch

    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(n)
    torch.set_num_threads(n)
    cv2.setNumThreads(0)


def use_deterministic_kernels(*, cuda: bool | None = None) -> None:
    """Let a GPU compute with kernels that are chosen by a rule, not by timing, and that add in one order.

    Of attention that is only its plain formula: the backward passes of the fused kernels add in any order. Changes
    nothing on a machine without a GPU.

    Args:
        cuda: whether there is a GPU; None: as torch finds.
    """
    import torch

    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if torch.cuda.is_available() if cuda is None else cuda:
        torch.backends.cuda.enable_math_sdp(True)
        for enable in (
            torch.backends.cuda.enable_flash_sdp,
            torch.backends.cuda.enable_mem_efficient_sdp,
            torch.backends.cuda.enable_cudnn_sdp,
        ):
            enable(False)


@contextmanager
def matrix_precision(precision: Literal["tf32", "ieee"] = "tf32") -> Iterator[None]:
    """Let a GPU compute products of float32 matrices inside the block as it does convolutions by torch's default.

    With `tf32` it rounds what it multiplies to 10 bits of mantissa and adds in float32, several times as fast; with
    `ieee` it rounds nothing. Changes nothing on a CPU, and nothing within autocast to bfloat16.
    """
    import torch

    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    # By torch's older switch, which sets the newer one as well: where the two differ, torch.compile cannot read them.
    products.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        products.allow_tf32 = before == "tf32"
        products.fp32_precision = before  # "none" and "ieee" are one to the older switch


def default_loader_workers(device: str, cpus: int | None = None) -> int:
    """The number of processes that augment beside the one that trains.

    On a GPU all cores but one; on the CPU none, because the training step needs the cores itself.
    """
    cores = usable_cores() if cpus is None else cpus
    return max(cores - 1, 0) if device.startswith("cuda") else 0


def hardware_name(device: str) -> str:
    """Name the GPU, or the CPU with the instruction set that torch uses: the last bits of results depend on it."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()}, {torch.backends.cpu.get_cpu_capability()}"


def library_versions(device: str) -> dict[str, str]:
    """Versions of CUDA and cuDNN, with which torch computes on a GPU; empty on a CPU, where torch brings its own."""
    import torch

    if not device.startswith("cuda"):
        return {}
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}


def _cpu_model() -> str:
    """The CPU's model as Linux names it, or its architecture where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def keep_freed_memory() -> None:
    """Let this process keep what it frees, in blocks of up to 1 GiB, until `give_back_memory`.

    A training step allocates all its activations again. The C library returns blocks of that size to the system when
    they are freed and gets them again in the next step, and then the kernel clears each page: up to a quarter of a
    step on two cores (docs/performance.md). Changes nothing where the C library is not glibc.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
        libc.mallopt(M_TOP_PAD, 2 * THREAD_HEAP)


def give_back_memory() -> None:
    """Return free memory to the system, and the GPU's to other processes: this one lives on, and others need it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The functions of the C library if it is glibc, else None."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


class EnergyMeter:
    """Sums up the energy of this machine between calls of `sample`: of CPUs by RAPL, of GPUs by nvidia-smi.

    RAPL counts microjoules of each CPU package since some moment, and wraps after minutes to hours; nvidia-smi tells
    the power of this moment. So both are sampled from time to time (`metered`). It is the whole machine's energy,
    whatever else runs on it.

    Args:
        powercap: the kernel's folder of RAPL's counters.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package (also on AMD); intel-rapl:0:1 is a part of it.
        self._packages = [folder for folder in sorted(powercap.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        self._smi = shutil.which("nvidia-smi")
        self._counters = {folder: _number_in(folder / "energy_uj") for folder in self._packages}
        self._at = time.monotonic()
        self._lock = threading.Lock()
        self.cpu_j: float | None = None
        """Joules of the CPUs; None where the machine does not tell, as to a user who may not read the counters."""
        self.gpu_j: float | None = None
        """Joules of the GPUs; None where there is none."""

    def sample(self) -> None:
        """Add the energy since the last call."""
        with self._lock:
            self._sample(time.monotonic())

    def _sample(self, now: float) -> None:
        for folder, before in self._counters.items():
            counter = _number_in(folder / "energy_uj")
            if counter is not None and before is not None:
                # A counter that wrapped begins again at 0.
                range_uj = _number_in(folder / "max_energy_range_uj") or 0
                used = counter - before if counter >= before else counter - before + range_uj
                self.cpu_j = (self.cpu_j or 0.0) + used / 1e6
            self._counters[folder] = counter
        power_w = _gpu_power_w(self._smi) if self._smi else None
        if power_w is not None:
            self.gpu_j = (self.gpu_j or 0.0) + power_w * (now - self._at)
        self._at = now

    @property
    def is_any(self) -> bool:
        """Whether this machine tells anything."""
        return self._smi is not None or any(counter is not None for counter in self._counters.values())


@contextmanager
def metered(meter: EnergyMeter) -> Iterator[None]:
    """Sample in a thread until the block ends, for counters wrap and power changes."""
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLED_EACH_S):
            meter.sample()

    thread = threading.Thread(target=sample, name="energy", daemon=True)
    if meter.is_any:
        thread.start()
    try:
        yield
    finally:
        ended.set()


def _number_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _gpu_power_w(smi: str) -> float | None:
    """What all GPUs draw now, W; None where nvidia-smi does not say it."""
    try:
        said = subprocess.run([smi, *_POWER_QUERY], capture_output=True, text=True, timeout=10, check=False).stdout
        return sum(float(line) for line in said.split()) if said.split() else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
