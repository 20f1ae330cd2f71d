"""What a fit in a Ray worker is asked for, and what its epochs come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrialRequest:
    """What an objective is asked for."""

    trial_id: str
    recipe: dict[str, Any]
    folder: Path
    """Where the objective keeps its state and best weights, and finds them when it is resumed."""
    run: Path
    cpus: int
    gpus: float


Objective = Callable[[TrialRequest], Iterator[dict[str, Any]]]
"""Yields a dict of numbers an epoch: `epoch` from 1 on, `validation_f1`, and if known `photos_per_second` and `seconds`; `message` among
them is what is to be told of the trial. Epochs that are done already are yielded again on resume. May raise Diverged or OutOfMemory."""
