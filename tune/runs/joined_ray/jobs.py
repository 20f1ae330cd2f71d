"""Folders of a job's package, which Ray unpacks from `--working-dir` and removes after the job."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from maskcls.errors import CallError
from maskcls.files import expanded
from maskcls.text import shown

_FOLDER, _PACKAGE = "working_dir_files", "_ray_pkg_"


def is_in_package(path: Path) -> bool:
    """Whether a path lies in a folder into which Ray has unpacked a job's package."""
    parts = expanded(path).absolute().parts
    return any(folder == _FOLDER and package.startswith(_PACKAGE) for folder, package in pairwise(parts))


def refuse_package(places: Mapping[str, Path | None]) -> None:
    """Raise CallError naming the first option whose path lies in a job's package.

    Another job has another package, so nothing would find what lies there: neither the run nor its photos.

    Args:
        places: by option, what must outlast the job; None where nothing is stated.
    """
    for option, path in places.items():
        if path is not None and is_in_package(path):
            raise CallError(
                f"{option} {shown(path)} lies in the folder into which Ray has unpacked this job's --working-dir, and "
                f"which it removes after the job. Give {option} as an absolute path that all nodes see."
            )
