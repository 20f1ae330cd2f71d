"""A classifier of faces: mask, gender and age group as one of 18 classes. `from maskcls import Predictor` predicts.

Importing the package loads nothing heavy; `Predictor` loads torch when the first one is made.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskcls.serving.predictor import Predictor
    from maskcls.serving.rows import PhotoPrediction

_MODULES = {"Predictor": "maskcls.serving.predictor", "PhotoPrediction": "maskcls.serving.rows"}
__all__ = ["PhotoPrediction", "Predictor"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
