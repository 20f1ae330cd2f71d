"""What a classifier looks at, and which photos look alike to it: Grad-CAM on the last stage, and features behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskcls.models.model import BLOCK, Model

COARSEST = 3
"""Cells along an edge of a map below which it says nothing about a place in the photo."""


def grad_cam(
    models: Sequence[Model], pixels: NDArray[np.uint8], classes: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Where the evidence for a class lies, (b, s, s) from 0 to 1, averaged over the models; None without a map.

    Grad-CAM (Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, ICCV
    2017) of the class's log probability, on the output of the last stage, which is the last one that was trained. A
    transformer of tokens has no map, and one of fewer than COARSEST cells along an edge is too coarse.

    Args:
        pixels: (b, s, s, 3) RGB, as the models see them.
        classes: (b,) 0..17.
    """
    found = [_grad_cam(model, torch.from_numpy(np.ascontiguousarray(pixels)), classes) for model in models]
    maps = [one for one in found if one is not None]
    return np.mean(maps, axis=0, dtype=np.float32) if maps else None


def _grad_cam(model: Model, pixels: Tensor, classes: NDArray[np.int64]) -> NDArray[np.float32] | None:
    model.eval()
    timm_model = model.backbone.model
    with torch.no_grad():
        maps: Tensor = timm_model.forward_features(model.normalise(pixels.to(model.mean.device)))  # type: ignore[operator]
    if maps.ndim != 4:
        return None
    is_last = maps.shape[1] == maps.shape[2] != maps.shape[3]  # (b, h, w, c), as Swin has it
    if min(maps.shape[1:3] if is_last else maps.shape[2:]) < COARSEST:
        return None
    maps = maps.detach().requires_grad_()
    logits = model.logits(timm_model.forward_head(maps, pre_logits=True))  # type: ignore[operator]
    rows = torch.arange(len(classes))
    log_probs = [
        each.log_softmax(1)[rows, torch.from_numpy(task.of(classes))]
        for each, task in zip(logits, model.tasks, strict=True)
    ]
    (gradient,) = torch.autograd.grad(torch.stack(log_probs).sum(), maps)
    if is_last:
        maps, gradient = maps.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    weight = gradient.mean(dim=(2, 3), keepdim=True)  # (b, c, 1, 1)
    heat = (weight * maps).sum(dim=1, keepdim=True).relu()  # (b, 1, h, w)
    heat = heat / heat.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    size = pixels.shape[1:3]
    whole = nn.functional.interpolate(heat, size=size, mode="bilinear", align_corners=False)[:, 0]  # (b, s, s)
    found: NDArray[np.float32] = whole.detach().cpu().numpy()
    return found


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
