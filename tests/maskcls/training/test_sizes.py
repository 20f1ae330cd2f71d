"""What a checkpoint and a bundle are said to take on the disk, beside what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from maskcls.training.fit import Fit
from maskcls.training.sizes import best_bytes, checkpoint_bytes, weights_bytes
from tests.maskcls.training.small import RECIPE, data


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"task_split": "shared_heads", "optimizer": "sgd", "frozen_stages": 0, "ema_decay": 0.9, "head": "linear"},
        {"task_split": "single", "frozen_stages": 5, "head_width": 4096, "age_regression": 0.5},
    ],
)
def test_a_checkpoint_takes_what_is_said(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = RECIPE.override({"epochs": 2, **values})
    fit = Fit(recipe, data())
    epochs = fit.epochs()
    next(epochs)
    fit.save(tmp_path)
    taken = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert taken == pytest.approx(checkpoint_bytes(recipe), rel=0.1)
    (weights,) = tmp_path.glob("best-*")
    assert weights.stat().st_size == pytest.approx(best_bytes(recipe), rel=0.1)
    weights = sum(tensor.nbytes for model in fit.models for tensor in model.state_dict().values())
    assert weights_bytes(recipe) == pytest.approx(weights, rel=0.01)


def test_no_weights_are_drawn() -> None:
    before = torch.random.get_rng_state()
    weights_bytes(RECIPE.override({"backbone": "test_convnext"}))
    assert torch.equal(torch.random.get_rng_state(), before)
