"""The GPUs that this machine has, and which of them CUDA_VISIBLE_DEVICES leaves to this process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from maskcls.errors import CallError
from maskcls.text import counted, first, shown

VISIBLE = "CUDA_VISIBLE_DEVICES"
_NO_DEVICE = ("", "-1", "NoDevFiles", "none", "void")
_UUID = re.compile(r"UUID: ([\w/-]+)")
_DEVICE = re.compile(r"nvidia\d+")


def local_gpus(devices: Path = Path("/dev")) -> int:
    """Count the GPUs that are visible here, by the GPU driver's own tool, so that torch need not be imported.

    Raises CallError where CUDA_VISIBLE_DEVICES names one that is not there, though there are others.
    """
    listed = _listed(devices)
    visible = os.environ.get(VISIBLE)
    return _n_whole(listed) if visible is None else _count_visible(visible, listed)


def _n_whole(listed: Sequence[str]) -> int:
    """Count GPUs, and no parts of them."""
    return sum(line.startswith("GPU ") for line in listed)


def _listed(devices: Path) -> list[str]:
    """Each GPU's line as the driver lists it, and the lines of its parts (MIG); without the tool, its device."""
    if not shutil.which("nvidia-smi"):
        return [f"GPU {device.name}" for device in sorted(devices.iterdir()) if _DEVICE.fullmatch(device.name)]
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.strip() for line in said.stdout.splitlines()]
    return [line for line in lines if line.startswith("GPU ")] + [line for line in lines if line.startswith("MIG ")]


def _count_visible(visible: str, listed: Sequence[str]) -> int:
    """Count the devices of CUDA_VISIBLE_DEVICES that are there, up to the first that means none, as CUDA does."""
    n_gpus = _n_whole(listed)
    uuids = [found[1] for line in listed if (found := _UUID.search(line))]
    count = 0
    for name in (part.strip() for part in visible.split(",")):
        if name in _NO_DEVICE:
            break
        known = int(name) < n_gpus if name.isdecimal() else not uuids or any(uuid.startswith(name) for uuid in uuids)
        if not known and n_gpus:
            raise CallError(
                f"{VISIBLE} is {shown(visible)}, and there is no GPU {shown(name)}: this machine has "
                f"{counted(n_gpus, 'GPU')} ({first([str(number) for number in range(n_gpus)], 8)}). Name those that "
                "`nvidia-smi -L` lists, or unset it."
            )
        count += known and n_gpus > 0
    return count
