"""Photos of a batch mixed with each other: MixUp and CutMix as timm has them, and CutMix of vertical halves.

MixUp: Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018. CutMix: Yun et al., ICCV 2019. Halves: faces are about symmetric, so the left half
of one and the right half of another keep each feature at its place; teams of the contest used it.
"""

from __future__ import annotations

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from maskcls.recipe import Recipe


def mix(images: Tensor, recipe: Recipe, seed: int) -> Tensor | None:
    """Mix a batch (b, 3, s, s) in place, each photo with the one at its mirrored position in the batch; all from `seed`.

    Returns the shares (b, b): row i tells how much of each photo of the batch photo i is made of. None where nothing was mixed.
    With an odd number of photos the last one stays as it is.
    """
    generator = np.random.default_rng(seed)
    if recipe.mix == "none" or generator.random() >= recipe.mix_probability:
        return None
    n = len(images) // 2 * 2
    if n == 0:
        return None
    shares = torch.eye(len(images), device=images.device)
    mixed = images[:n]  # a view: timm mixes in place
    if recipe.mix == "half_cutmix":
        half = images.shape[3] // 2
        mixed[..., half:] = mixed[..., half:].flip(0)
        own = half / images.shape[3]
        shares[:n, :n] = own * shares[:n, :n] + (1 - own) * shares[:n, :n].flip(0)
    else:
        shares[:n, :n] = _by_timm(mixed, recipe, int(generator.integers(2**32)))
    return shares


def _by_timm(images: Tensor, recipe: Recipe, seed: int) -> Tensor:
    """timm draws from numpy's global generator, so that is seeded for the call and put back after it.

    Asked to mix the photos' own numbers as labels, it answers with the shares (n, n).
    """
    alphas = {
        "mixup_alpha": recipe.mix_alpha if recipe.mix == "mixup" else 0.0,
        "cutmix_alpha": recipe.mix_alpha * (recipe.mix == "cutmix"),
    }
    mixer = Mixup(**alphas, label_smoothing=0.0, num_classes=len(images))
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        _, shares = mixer(images, torch.arange(len(images), device=images.device))
    finally:
        np.random.set_state(before)
    return shares  # type: ignore[no-any-return]
