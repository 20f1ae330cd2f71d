"""What a command takes: seconds, CPU time and memory of all its processes, Ray's included.

Ray's processes outlive and leave their parents, so neither the driver's own usage nor that of its children is enough.
Here /proc is read each SAMPLE_S: a process belongs to the command if its parent does, or once did. Of each the last CPU
time that was seen counts, so what it did after that is missing: less than SAMPLE_S. The machine's busy time beside it
misses nothing, but includes everything else that ran; on a machine with nothing else to do the two agree.

Memory is the proportional set size (PSS): a page that k processes share counts 1/k in each, so the sum has every page
once.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from tests.benchmarks.report import ROOT

SAMPLE_S = 1.0
PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LAST_LINES = 30


@dataclass(frozen=True)
class Usage:
    """What one command took. `cpu_s` is that of its processes, `machine_cpu_s` that of all that ran meanwhile."""

    seconds: float
    cpu_s: float
    machine_cpu_s: float
    peak_pss_mb: float
    peak_processes: int


class Process(NamedTuple):
    """A process by its id and its start in the kernel's ticks, because ids are used again."""

    pid: int
    start: int


class Stat(NamedTuple):
    """Two fields of /proc/<pid>/stat: the parent's id, and the CPU ticks so far, without those of its children."""

    parent: int
    ticks: int


@dataclass
class Tree:
    """The processes of one command, looked for at each sample."""

    root: int
    ticks: dict[Process, int] = field(default_factory=dict)
    peak_pss_mb: float = 0.0
    peak_processes: int = 0

    def sample(self) -> None:
        """Find the command's processes among all that run now, and read their CPU ticks and memory."""
        own = self._find()
        self.peak_pss_mb = max(self.peak_pss_mb, sum(pss_mb(process.pid) for process in own))
        self.peak_processes = max(self.peak_processes, len(own))

    def kill(self) -> None:
        """End all of the command's processes, those too that have left their parents."""
        killed: set[Process] = set()
        while new := self._find() - killed:
            for process in new:
                with suppress(OSError):  # it has ended
                    os.kill(process.pid, signal.SIGKILL)
            killed |= new

    def _find(self) -> set[Process]:
        """The command's processes that run now; their CPU ticks are noted."""
        there = _processes()
        own = {process for process in there if process in self.ticks or process.pid == self.root}
        found = own
        while found:
            parents = {process.pid for process in found}
            found = {process for process, seen in there.items() if seen.parent in parents} - own
            own |= found
        self.ticks |= {process: there[process].ticks for process in own}
        return own


def usage(call: Sequence[str], log: Path) -> Usage:
    """Run a command to its end, with its output in `log`. Raises SystemExit with the last lines if it fails."""
    with log.open("w") as stream:
        began, busy = perf_counter(), machine_cpu_s()
        process = subprocess.Popen(call, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT)
        tree = Tree(process.pid)
        try:
            while process.poll() is None:
                tree.sample()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SAMPLE_S)
            seconds, busy = perf_counter() - began, machine_cpu_s() - busy
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        raise SystemExit(f"{' '.join(call)} ended with {process.returncode}:\n{last}")
    return Usage(seconds, sum(tree.ticks.values()) / TICKS_PER_S, busy, tree.peak_pss_mb, tree.peak_processes)


def pss_mb(pid: int, part: str = "Pss") -> float:
    """A process's proportional set size, MB; `Pss_Anon` or `Pss_File` for a part of it. 0 if the process has ended."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{part}:")) * 1024 / 1e6


def machine_cpu_s() -> float:
    """CPU seconds that all cores were busy since the machine started."""
    user, nice, system, _idle, _waiting, irq, softirq = map(int, (PROC / "stat").read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def _processes() -> dict[Process, Stat]:
    found = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended
                values = (folder / "stat").read_text().rpartition(")")[2].split()  # its name may hold spaces
                found[Process(int(folder.name), int(values[19]))] = Stat(
                    int(values[1]), int(values[11]) + int(values[12])
                )
    return found
