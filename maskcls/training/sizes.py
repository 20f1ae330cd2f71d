"""How many bytes a fit's checkpoint and its bundle take on disk, from its recipe alone: no weights are made."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from maskcls.models.backbones import create_backbone
from maskcls.models.heads import create_head
from maskcls.models.weights import NONE
from maskcls.recipe import Recipe
from maskcls.tasks import Task

_MOMENTS = {"adam": 2, "adamw": 2, "sgd": 1}
"""Tensors that an optimizer keeps for each trainable one."""


def checkpoint_bytes(recipe: Recipe) -> int:
    """The size of a fit's checkpoint: latest and best weights, their moving average, the optimizer's state.

    Only what training can change is in it; the history of the epochs is small, and not counted. After the recipe's last
    epoch it is smaller, for the optimizer's state is no longer kept.
    """
    total = 0
    for tasks in recipe.split.models:
        own = recipe.of_model(tasks)
        copies = 2 + bool(own.ema_decay) + _MOMENTS[own.optimizer]
        total += copies * _trainable(recipe, tasks)
    return total


def best_bytes(recipe: Recipe) -> int:
    """The size of a fit's best weights, all that stays of its checkpoint when nothing goes on from there."""
    return sum(_trainable(recipe, tasks) for tasks in recipe.split.models)


def weights_bytes(recipe: Recipe) -> int:
    """The size of all weights of a fit's models, frozen stages included: what a bundle holds."""
    return sum(_backbone(recipe.of_model(tasks))[0] + _heads(recipe, tasks) for tasks in recipe.split.models)


def _trainable(recipe: Recipe, tasks: Sequence[Task]) -> int:
    return _backbone(recipe.of_model(tasks))[1] + _heads(recipe, tasks)


def _heads(recipe: Recipe, tasks: Sequence[Task]) -> int:
    n_features = _backbone(recipe.of_model(tasks))[2]
    of_members = [(recipe.of_member(task.name), task.n_labels) for task in tasks]
    return sum(_head(own.head, n_features, n_labels, own.head_width) for own, n_labels in of_members)


@functools.cache
def _head(kind: str, n_features: int, n_labels: int, width: int) -> int:
    """Bytes of a head and of the regression of the age beside it, which a recipe may ask for."""
    with torch.device("meta"):
        parts = create_head(kind, n_features, n_labels, width=width, dropout=0.0), nn.Linear(n_features, 1)
    return sum(_bytes(part.state_dict().values()) for part in parts)


def _backbone(own: Recipe) -> tuple[int, int, int]:
    return _measured(own.backbone, own.frozen_stages, own.image_size)


@functools.cache
def _measured(name: str, frozen_stages: int, image_size: int) -> tuple[int, int, int]:
    """Bytes of a backbone, bytes of what training can change in it, and how many features it gives."""
    with torch.device("meta"):
        made = create_backbone(name, weights=NONE, frozen_stages=frozen_stages, image_size=image_size)
    tensors = made.model.state_dict()
    trainable = [tensor for name, tensor in tensors.items() if made.stage_of(name) > frozen_stages]
    return _bytes(tensors.values()), _bytes(trainable), made.n_features


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
