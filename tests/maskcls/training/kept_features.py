"""A small fit whose frozen features are kept, and what of it was computed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from maskcls.data.sampling import DrawStream
from maskcls.recipe import Recipe
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.frozen import FrozenStages
from tests.maskcls.training.small import RECIPE, data

VIEWS = 2
FOR_THE_SHAPE = 2
"""Photos that go through the prefix alone, one for the training's stores and one for the validation's."""
N_TRAIN = len(data().train)
KEPT = RECIPE.override({"views": VIEWS, "epochs": 3, "frozen_stages": 5, "task_split": "single"})


def known() -> FitData:
    return dataclasses.replace(data(), pixels_digest="drawn")


def curve(fit: Fit) -> list[tuple[Any, ...]]:
    return [(result.epoch, result.train_loss, result.validation_f1, result.scores.class_f1) for result in fit.epochs()]


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photos went through a frozen prefix, call by call, from now on."""
    calls: list[int] = []
    real = FrozenStages.of_images

    def counted(frozen: FrozenStages, images: torch.Tensor, precision: torch.dtype, block: int) -> torch.Tensor:
        calls.append(len(images))
        return real(frozen, images, precision, block)

    monkeypatch.setattr(FrozenStages, "of_images", counted)
    return calls


def drawn(recipe: Recipe) -> int:
    """How many different views of photos a fit draws, and how many photos it validates on."""
    photos = known()
    draws = DrawStream(photos.labels[photos.train], 18, recipe.sampler, recipe.seed, 0)
    pairs = {pair for epoch in range(recipe.epochs) for pair in zip(*draws.epoch(epoch), strict=True)}
    return len({(photo, number % recipe.views) for photo, number in pairs}) + len(photos.validation)
