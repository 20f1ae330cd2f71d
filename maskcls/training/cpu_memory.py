"""About how much memory a process takes that fits a recipe on the CPU, from the recipe alone: nothing is trained."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from maskcls.models.backbones import create_backbone
from maskcls.models.model import BLOCK
from maskcls.models.weights import NONE
from maskcls.recipe import Recipe
from maskcls.training.conditions import whole_batch
from maskcls.training.sizes import checkpoint_bytes, weights_bytes

PROCESS_BYTES = 550 * 2**20
"""A worker's own memory (RssAnon) when it has imported what a fit needs, without a fit: 502 to 526 MiB measured."""
MARGIN = 1.3
"""Factor on what a fit is calculated to add.

Over six recipes (resnet10t, mobilenetv3_small_050 and resnet18 at 64 and 112 px, batches of 16 to 64, 0 and 3 stages
frozen) the peak that `gpu_memory.rehearse` added on two CPU cores was 0.9 to 1.3 times what is calculated.
"""


def cpu_bytes(recipe: Recipe) -> int:
    """Bytes of its own that a process takes at most while it fits this recipe on the CPU; an estimate.

    What all processes share, as libraries and decoded photos, is not in it.
    """
    maps = [_maps(own.backbone, own.frozen_stages, own.image_size) for own in map(recipe.of_model, recipe.split.models)]
    # The models train one after the other; each keeps what its trainable stages gave for the way back.
    training = max(whole_batch(recipe) * kept for kept, _ in maps)
    # In and out of the widest layer, for photos that go through without gradients.
    passing = max(2 * BLOCK * widest for _, widest in maps)
    tensors = weights_bytes(recipe) + checkpoint_bytes(recipe)
    return PROCESS_BYTES + round(MARGIN * (tensors + training + passing))


@functools.cache
def _maps(name: str, frozen_stages: int, image_size: int) -> tuple[int, int]:
    """Of one photo: bytes of all that a backbone's trainable layers give, and of the most that one layer gives."""
    with torch.device("meta"):
        backbone = create_backbone(name, weights=NONE, frozen_stages=frozen_stages, image_size=image_size).eval()
    kept, widest = 0, 0

    def look(trains: bool, layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal kept, widest
        if isinstance(output, torch.Tensor):
            n_bytes = output.numel() * output.element_size()
            kept, widest = kept + trains * n_bytes, max(widest, n_bytes)

    for layer_name, layer in backbone.model.named_modules():
        if not list(layer.children()):
            trains = backbone.stages[layer_name] > frozen_stages
            layer.register_forward_hook(functools.partial(look, trains))
    with torch.no_grad():
        backbone(torch.zeros(1, 3, image_size, image_size, device="meta"))
    return kept, widest
