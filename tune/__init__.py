"""The search, and what is built on it. In Python: `from tune import run_search, open_run`.

Importing the package, or these two names, loads nothing heavy.

If Python says that `tune` is not a package, or finds no `tune.search`, something else has the name: a file tune.py in
the current folder (call `maskcls search`, which does not look there, or `python -P -m tune.search`), or another
installed distribution named tune (`pip uninstall tune`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune.api.call import run_search
    from tune.api.run import Run, open_run

__all__ = ["Run", "open_run", "run_search"]
_MODULES = {"Run": "tune.api.run", "open_run": "tune.api.run", "run_search": "tune.api.call"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
