"""What a run says of where it was made: versions, commit, hardware, time."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from maskcls.machine import usable_cores
from tune.runs import cluster

_PACKAGES = ("maskcls", "ray", "optuna", "torch", "timm", "albumentations", "numpy")


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this machine, ready for JSON."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "commit": _commit(),
        "hardware": {"cpus": usable_cores(), "gpus": cluster.local_gpus(), "machine": platform.machine()},
    }


def now() -> str:
    """This moment, with the time zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the code, where it runs from a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
