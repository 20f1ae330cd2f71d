"""The energy that this machine takes while a driver works, where the machine tells: CPUs by RAPL, GPUs by nvidia-smi.

RAPL counts microjoules of each CPU package since some moment, and wraps after minutes to hours; nvidia-smi tells the
power of this moment. So both are sampled from a thread. It is the whole machine's energy, whatever else runs on it, and
of a cluster only that of the driver's machine.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
SAMPLED_EACH_S = 20.0
_QUERY = ("--query-gpu=power.draw", "--format=csv,noheader,nounits")


class EnergyMeter:
    """Sums up energy between calls of `sample`.

    Args:
        powercap: the kernel's folder of RAPL's counters.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package (also on AMD); intel-rapl:0:1 is a part of it.
        self._packages = [folder for folder in sorted(powercap.glob("intel-rapl:*")) if folder.name.count(":") == 1]
        self._smi = shutil.which("nvidia-smi")
        self._counters = {folder: _read(folder / "energy_uj") for folder in self._packages}
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
            counter = _read(folder / "energy_uj")
            if counter is not None and before is not None:
                # A counter that wrapped begins again at 0.
                range_uj = _read(folder / "max_energy_range_uj") or 0
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


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _gpu_power_w(smi: str) -> float | None:
    """What all GPUs draw now, W; None where nvidia-smi does not say it."""
    try:
        said = subprocess.run([smi, *_QUERY], capture_output=True, text=True, timeout=10, check=False).stdout
        return sum(float(line) for line in said.split()) if said.split() else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
