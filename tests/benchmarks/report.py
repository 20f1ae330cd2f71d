"""What every benchmark records: hardware, versions and commit; and how repeated measurements are summarised."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "timm", "numpy", "opencv-python-headless", "albumentations")


def environment() -> dict[str, Any]:
    """Hardware, versions and commit of this run; with uncommitted changes the commit ends in `-dirty`."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", *_module(), *sys.argv[1:]]),
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "load_average_1_min": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in LIBRARIES}},
    }


def installed(name: str) -> str:
    """The version of a package, or `missing`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def rates(work: Callable[[], int], repeats: int, unmeasured: int = 1) -> list[float]:
    """Photos per second of `work`, which returns their number, `repeats` times after some runs that do not count."""
    for _ in range(unmeasured):
        work()
    measured = []
    for _ in range(repeats):
        started = perf_counter()
        photos = work()
        measured.append(photos / (perf_counter() - started))
    return measured


def summary(values: Sequence[float]) -> dict[str, Any]:
    """n, mean and standard deviation, and the values themselves."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"n": len(values), "mean": statistics.fmean(values), "sd": spread, "values": list(values)}


def table(results: Mapping[str, Mapping[str, Any]], unit: str = "photos/s") -> str:
    """One line per measurement: name, mean, standard deviation, n."""
    width = max(len(name) for name in results)
    lines = [f"{'':{width}}  {unit:>10}  {'+-':>8}  {'n':>3}"]
    lines += [
        f"{name:{width}}  {one['mean']:>10.1f}  {one['sd']:>8.1f}  {one['n']:>3}" for name, one in results.items()
    ]
    return "\n".join(lines)


def paired(values: Sequence[float], base: Sequence[float]) -> str:
    """Mean, and in parentheses the mean difference to the base with its standard error; both have one order."""
    differences = [one - other for one, other in zip(values, base, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.fmean(values):.4f} ({statistics.fmean(differences):+.4f} +- {error:.4f})"


def write(file: Path, results: Mapping[str, Any], **settings: Any) -> None:
    """Write the record as JSON: environment, settings, results. The file is replaced in one step."""
    record = {**environment(), "settings": settings, "results": results}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)


def _module() -> list[str]:
    main = sys.modules["__main__"]
    return [main.__spec__.name] if main.__spec__ is not None else [sys.argv[0]]


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (
        "-dirty" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
