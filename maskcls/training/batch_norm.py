"""Batches of one photo and BatchNorm: where maps are 1 x 1, one photo gives one value, and no variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskcls.errors import CallError
from maskcls.models.model import build_models
from maskcls.recipe import Recipe


def normalises_single_values(model: nn.Module, run: Callable[[], object]) -> bool:
    """Return whether a BatchNorm that is trained sees maps of 1 x 1, while `run` runs the model on one photo.

    It is run in eval(), and then in train() again.
    """
    seen: list[bool] = []
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.training]
    hooks = [norm.register_forward_pre_hook(lambda _, given: seen.append(_is_single(given[0]))) for norm in norms]
    model.eval()
    with torch.no_grad():
        run()
    model.train()
    for hook in hooks:
        hook.remove()
    return any(seen)


def refusal(recipe: Recipe) -> str:
    """Return why a batch of one photo cannot be trained on, and what can."""
    return (
        f"A batch of one photo cannot be trained on: {recipe.backbone} at {recipe.image_size} px normalises maps of "
        "1 x 1 by the batch (BatchNorm). Choose a batch_size of 3 or more, or larger photos."
    )


def check_batches(recipe: Recipe, photos: Sequence[int]) -> None:
    """Raise CallError if a batch of a model would be one photo, and that cannot be trained on: before the work.

    Args:
        photos: how many photos each model of the recipe's split draws per epoch.
    """
    sizes = [recipe.of_model(tasks).batch_size for tasks in recipe.split.models]
    smallest = [n // -(-n // size) for n, size in zip(photos, sizes, strict=True)]  # batches differ by one at most
    if min(smallest) > 1:
        return
    for model, least in zip(build_models(recipe, pretrained=False), smallest, strict=True):
        image = torch.zeros(1, recipe.image_size, recipe.image_size, 3, dtype=torch.uint8)

        def run(model: nn.Module = model, image: Tensor = image) -> object:
            return model(image)

        if least == 1 and normalises_single_values(model.train(), run):
            raise CallError(refusal(recipe.of_model(model.tasks)))


def _is_single(maps: Tensor) -> bool:
    """Whether maps (1, c, ...) of one photo have one value per channel."""
    return maps.numel() == maps.shape[1]
