"""Ray's workers import this project's packages, also where the driver's folder has a file of the same name.

Before a worker's first task Ray puts the driver's current folder at the head of the worker's import path. A user's own
tune.py there would be imported instead of `tune`, and no trial could begin. So the workers import the packages before
that: an import finds what has been imported already, wherever it lies.
"""

from __future__ import annotations

import importlib
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("maskcls", "search_spaces", "tune")


def runtime_env() -> dict[str, str] | None:
    """Return what Ray's workers are started with; None, which costs nothing, where nothing in this folder has the name
    of a package.
    """
    if not any(is_shadowed(package, Path.cwd()) for package in PACKAGES):
        return None
    return {"worker_process_setup_hook": f"{__name__}.{import_packages.__name__}"}


def is_shadowed(package: str, folder: Path) -> bool:
    """Whether Python, looking into the folder first, would find something else under the package's name."""
    found = PathFinder.find_spec(package, [str(folder)])
    if found is None or found.origin is None:  # a folder without __init__.py gives way to a package
        return False
    ours = Path(__file__).parents[2] / package / "__init__.py"
    return not Path(found.origin).samefile(ours)


def import_packages() -> None:
    """Import the packages from where this module lies; called by Ray in a worker before its first task."""
    for package in PACKAGES:
        importlib.import_module(package)
