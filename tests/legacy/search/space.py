"""Which learning rates and which loss does a tiny backbone want?"""

from __future__ import annotations

from typing import Any

from search_spaces import Setting, Space


def suggest(trial: Any, setting: Setting) -> dict[str, Any]:
    """Overrides of a recipe: the head's learning rate, the weights' decay, and the loss."""
    return {
        "lr_head": trial.suggest_float("lr_head", 1e-3, 2e-1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True),
        "loss": trial.suggest_categorical("loss", ["focal", "cross_entropy"]),
    }


def points(setting: Setting) -> list[dict[str, Any]]:
    """The known points of the space."""
    return [{"lr_head": 0.1, "weight_decay": 1e-4, "loss": "focal"}]


SPACE = Space("tiny", "Which learning rates and which loss does a tiny backbone want?", suggest, points)
