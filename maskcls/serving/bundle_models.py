"""The models of a bundle: its safetensors files, checked, and built again with torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from maskcls.errors import DataError
from maskcls.models.backbones import normalisation
from maskcls.models.model import Model, build_models
from maskcls.models.weights import not_finite
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_checked
from maskcls.text import first


def read_models(folder: Path, entry: Mapping[str, Any], recipe: Recipe, versions: Mapping[str, str]) -> list[Model]:
    """Read the models of a classifier, in eval() and on the CPU.

    Args:
        entry: of the classifier in bundle.json: its models' files with sizes and SHA-256, and its normalisation.
        versions: of the libraries that wrote them, for messages.

    Raises DataError where a file is missing, is damaged, or does not fit the recipe.
    """
    if len(entry["models"]) != len(recipe.split.models):
        raise DataError(f"it has {len(entry['models'])} models, and {recipe.task_split} {len(recipe.split.models)}")
    states = [_state(read_checked(folder, described), described["file"]) for described in entry["models"]]
    wrote = ", ".join(f"{name} {number}" for name, number in versions.items() if name in ("timm", "torch"))
    _check_shapes(recipe, states, wrote)
    models = build_models(recipe, pretrained=False)
    for model, state in zip(models, states, strict=True):
        model.load_state_dict(state)
        model.eval().requires_grad_(False)
    _check_normalisation(models, states, entry["preprocessing"]["normalisation"])
    return models


def _state(content: bytes, name: str) -> dict[str, Tensor]:
    try:
        state = safetensors.torch.load(content)
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{name} holds no weights ({error})") from None
    wrong = not_finite(state)
    if wrong:
        raise DataError(f"the weights {wrong} in {name} are not finite")
    return state


def _check_shapes(recipe: Recipe, states: Sequence[Mapping[str, Tensor]], wrote: str) -> None:
    """Raise DataError unless the states are those of the recipe's models.

    The models are built on the meta device, which takes no memory, however large a network bundle.json describes.
    """
    with torch.device("meta"):
        expected = build_models(recipe, pretrained=False)
    for model, state in zip(expected, states, strict=True):
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        found = {name: tensor.shape for name, tensor in state.items()}
        differing = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
        if differing:
            raise DataError(
                f"its weights do not fit {model.recipe.backbone} as built here; it was written with {wrote} "
                f"({first(differing, 3)} differ)"
            )


def _check_normalisation(
    models: Sequence[Model], states: Sequence[Mapping[str, Tensor]], described: Sequence[Mapping[str, Sequence[float]]]
) -> None:
    """Raise DataError unless what bundle.json says of mean and std is what computes, and the backbone's own."""
    for model, state, numbers in zip(models, states, described, strict=True):
        for name, own in zip(("mean", "std"), normalisation(model.recipe.backbone), strict=True):
            used = (state[name].flatten() / 255).tolist()
            if not np.allclose([used, numbers[name]], own, rtol=0, atol=1e-6):
                raise DataError(f"its {name} is not the one of {model.recipe.backbone}: {used} and {numbers[name]}")
