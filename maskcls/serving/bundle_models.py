"""The models of a bundle: its safetensors files, checked, and built again with torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from maskcls.errors import DataError
from maskcls.models.model import Model, build_models
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_checked


def read_models(
    folder: Path, entries: Sequence[Mapping[str, Any]], recipe: Recipe, versions: Mapping[str, str]
) -> list[Model]:
    """Read the models of a classifier, in eval() and on the CPU.

    Args:
        entries: of each model in bundle.json: its file, size and SHA-256.
        versions: of the libraries that wrote them, for messages.

    Raises DataError where a file is missing, is damaged, or does not fit the recipe.
    """
    states = [safetensors.torch.load(read_checked(folder, entry)) for entry in entries]
    return _rebuild(recipe, states, versions)


def _rebuild(recipe: Recipe, states: Sequence[Mapping[str, Tensor]], versions: Mapping[str, str]) -> list[Model]:
    models = build_models(recipe, pretrained=False)
    for model, state in zip(models, states, strict=True):
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            wrote = ", ".join(f"{name} {number}" for name, number in versions.items() if name in ("timm", "torch"))
            raise DataError(
                f"its weights do not fit {model.recipe.backbone} as built here; it was written with {wrote} ({error})"
            ) from None
        model.eval().requires_grad_(False)
    return models
