"""What a classifier looks at, and which photos look alike to it: Grad-CAM on the last stage, and features behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskcls.models.model import BLOCK, Model

_HEAT = np.array([209, 73, 91], np.float32)  # RGB
COARSEST = 3
"""Cells along an edge of a map below which it says nothing about a place in the photo."""


class Saliency(NamedTuple):
    """Where the evidence for a class lies in each of b photos."""

    heat: NDArray[np.float32]
    """(b, s, s) from 0 to 1, the mean over the models."""
    stage: int
    """Of the backbone, 1..5, on whose output it was computed; of several models the earliest."""


def grad_cam(models: Sequence[Model], pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> Saliency | None:
    """Compute where the evidence for a class lies in each photo; None where no model has a map.

    Grad-CAM (Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV
    2017) of the class's log probability, on the output of the last stage. Where that has fewer than COARSEST cells
    along an edge, because the photos are small, it is the last stage that has more. A transformer of tokens has no map.

    Args:
        pixels: (b, s, s, 3) RGB, as the models see them.
        classes: (b,) 0..17.
    """
    found = [_grad_cam(model, torch.from_numpy(np.ascontiguousarray(pixels)), classes) for model in models]
    maps = [one for one in found if one is not None]
    if not maps:
        return None
    return Saliency(np.mean([one.heat for one in maps], axis=0, dtype=np.float32), min(one.stage for one in maps))


def heated(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw a map (s, s) over its photo (s, s, 3), RGB: the redder a place, the more evidence lies there."""
    share = 0.65 * heat[..., None]
    mixed: NDArray[np.uint8] = ((1 - share) * pixels + share * _HEAT).astype(np.uint8)
    return mixed


def _grad_cam(model: Model, pixels: Tensor, classes: NDArray[np.int64]) -> Saliency | None:
    model.eval()
    images = model.normalise(pixels.to(model.mean.device))
    name = _mapped_module(model, images[:1])
    if name is None:
        return None
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        # The graph begins here, so that frozen stages need no gradients.
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    hook = model.backbone.model.get_submodule(name).register_forward_hook(keep)
    try:
        logits = model.logits(model.backbone(images))
    finally:
        hook.remove()
    rows = torch.arange(len(classes))
    log_probs = [
        each.log_softmax(1)[rows, torch.from_numpy(task.of(classes))]
        for each, task in zip(logits, model.tasks, strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.stack(log_probs).sum(), kept[-1])
    heat = _heat(kept[-1].detach(), gradient)
    whole = nn.functional.interpolate(heat, size=list(pixels.shape[1:3]), mode="bilinear", align_corners=False)[:, 0]
    return Saliency(whole.cpu().numpy(), model.backbone.stages[name])  # (b, s, s)


def _mapped_module(model: Model, images: Tensor) -> str | None:
    """The name of the last module at the end of a stage whose output is a map of COARSEST cells along an edge."""
    timm_model = model.backbone.model
    info: Iterable[Mapping[str, Any]] = getattr(timm_model, "feature_info", [])
    levels = [level["module"] for level in info]
    shapes: dict[str, torch.Size] = {}
    known = dict(timm_model.named_modules())
    hooks = [
        known[name].register_forward_hook(
            lambda _module, _given, output, name=name: shapes.update({name: output.shape})
        )
        for name in levels
        if name in known
    ]
    try:
        with torch.inference_mode():
            model.backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    fine = [name for name, shape in shapes.items() if len(shape) == 4 and min(_cells(shape)) >= COARSEST]
    return fine[-1] if fine else None


def _cells(shape: torch.Size) -> tuple[int, int]:
    """Height and width of a map: of (b, c, h, w), or of (b, h, w, c) as Swin has it."""
    return (shape[1], shape[2]) if _channels_last(shape) else (shape[2], shape[3])


def _channels_last(shape: torch.Size) -> bool:
    return shape[1] == shape[2] != shape[3]


def _heat(maps: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM of maps and their gradients: (b, 1, h, w) from 0 to 1."""
    if _channels_last(maps.shape):
        maps, gradient = maps.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    weight = gradient.mean(dim=(2, 3), keepdim=True)  # (b, c, 1, 1)
    heat = (weight * maps).sum(dim=1, keepdim=True).relu()  # (b, 1, h, w)
    return heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def features(models: Sequence[Model], pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Features behind the backbones for rows (n,) of pixels (photos, s, s, 3): (n, f), each row of length one.

    The dot product of two rows is their cosine similarity.
    """
    blocks = []
    for start in range(0, len(rows), BLOCK):
        batch = torch.from_numpy(pixels[rows[start : start + BLOCK]])
        with torch.inference_mode():
            of_models = [model.eval().backbone(model.normalise(batch.to(model.mean.device))) for model in models]
            joined = torch.cat([nn.functional.normalize(each, dim=1) for each in of_models], dim=1)
        blocks.append(nn.functional.normalize(joined, dim=1).cpu().numpy())
    found: NDArray[np.float32] = np.concatenate(blocks)
    return found
