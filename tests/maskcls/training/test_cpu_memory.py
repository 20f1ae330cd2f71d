"""What a fit takes of the memory grows with its batch, its photos and what it trains."""

from __future__ import annotations

import pytest

from maskcls.recipe import Recipe
from maskcls.training.cpu_memory import MARGIN, PROCESS_BYTES, cpu_bytes

RECIPE = Recipe(backbone="test_resnet", weights="none", image_size=32, batch_size=8, frozen_stages=0)


def test_it_grows_with_the_batch_and_with_what_is_trained() -> None:
    taken = {size: cpu_bytes(RECIPE.override({"batch_size": size})) for size in (8, 16, 32)}
    assert taken[32] - taken[16] == pytest.approx(2 * (taken[16] - taken[8]), abs=2), "but for rounding"
    assert taken[16] > taken[8]
    assert PROCESS_BYTES < cpu_bytes(RECIPE.override({"frozen_stages": 5})) < taken[8]
    assert cpu_bytes(RECIPE.override({"image_size": 64})) > taken[8]
    assert cpu_bytes(RECIPE.override({"task_split": "three"})) > taken[8], "three sets of weights"


def test_a_training_step_keeps_what_each_layer_gives() -> None:
    """Of a ResNet of known shapes, the stem's map alone: 24 channels or more of half the edge, in float32."""
    one = (cpu_bytes(RECIPE.override({"batch_size": 9})) - cpu_bytes(RECIPE)) / MARGIN
    assert one > 24 * 16 * 16 * 4
