"""Photos of a batch mixed with each other: MixUp and CutMix as timm has them, and CutMix of vertical halves.

MixUp: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018. CutMix: Yun et al.,
"CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019. Halves: faces are
about symmetric, so the left half of one and the right half of another keep each feature in its place; teams of the
contest used it.
"""

from __future__ import annotations

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from maskcls.recipe import Recipe


def mix(images: Tensor, recipe: Recipe, seed: int) -> Tensor | None:
    """Mix a batch in place, photo i with photo b - 1 - i, and return the shares, or None if nothing was mixed.

    With an odd number of photos the last one is not mixed.

    Args:
        images: (b, 3, s, s), normalised.
        recipe: its `mix`, `mix_probability` (of a batch), and `mix_alpha` (of the beta distribution of the shares).
        seed: all randomness comes from it.

    Returns shares (b, b): row i says how much of each photo of the batch is in photo i; rows sum to one.
    """
    generator = np.random.default_rng(seed)
    if recipe.mix == "none" or generator.random() >= recipe.mix_probability:
        return None
    n = len(images) // 2 * 2  # timm mixes even numbers only
    if n == 0:
        return None
    shares = torch.eye(len(images), device=images.device)  # (b, b): each photo is wholly itself
    mixed = images[:n]  # a view: timm mixes in place
    if recipe.mix == "half_cutmix":
        half = images.shape[3] // 2
        mixed[..., half:] = mixed[..., half:].flip(0)
        own = half / images.shape[3]  # the left half's share of the width
        shares[:n, :n] = own * shares[:n, :n] + (1 - own) * shares[:n, :n].flip(0)
    else:
        shares[:n, :n] = _by_timm(mixed, recipe, int(generator.integers(2**32)))
    return shares


def _by_timm(images: Tensor, recipe: Recipe, seed: int) -> Tensor:
    """Mix (n, 3, s, s) in place with timm, and return the shares (n, n).

    timm draws from numpy's global generator, which is seeded for the call and restored after it. Given the photos'
    numbers as labels, timm returns their mixed one-hot encoding, which is the shares.
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
