"""Losses over one task's labels, each a mean over the batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name that torch's own documentation uses

from maskcls.recipe import Recipe

SMALLEST_DOUBT = 1e-6
"""1 - p is never less: below gamma 1 its power has no gradient at 0, where a photo is certain."""


class FocalLoss(nn.Module):
    """Multi-class focal loss: mean of -w_y (1 - p_y)^gamma log p_y over the batch, divided by the mean weight like cross entropy.

    Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, equation 5, with a softmax.
    Label smoothing moves the share `smoothing` of the target evenly to all k labels; the focusing factor stays inside each term's sum.

    Args:
        gamma: 0 gives cross entropy.
        weight: (k,) weight of each label, or None.
    """

    weight: Tensor | None

    def __init__(self, gamma: float, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.smoothing = smoothing
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (b, k) and labels (b,) int64 -> a scalar."""
        log_p = logits.float().log_softmax(1)  # (b, k)
        doubt = (1 - log_p.exp()).clamp(min=SMALLEST_DOUBT)
        terms = -(doubt**self.gamma) * log_p
        weight = torch.ones(logits.shape[1], device=logits.device) if self.weight is None else self.weight
        terms = terms * weight
        own = terms.gather(1, labels[:, None])[:, 0]
        smoothed = (1 - self.smoothing) * own + self.smoothing * terms.mean(1)
        return smoothed.sum() / weight[labels].sum()


class CrossEntropy(nn.Module):
    """torch's cross entropy, with label smoothing and label weights (k,) or None."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (b, k) and labels (b,) int64 -> a scalar."""
        return F.cross_entropy(logits.float(), labels, weight=self.weight, label_smoothing=self.smoothing)


def create_loss(recipe: Recipe, labels: Tensor, n_labels: int) -> nn.Module:
    """The recipe's loss for a task whose training photos have `labels` (n,) out of `n_labels`."""
    weight = balanced_weights(labels, n_labels) if recipe.class_weights == "balanced" else None
    if recipe.loss == "focal":
        return FocalLoss(recipe.focal_gamma, weight, recipe.label_smoothing)
    return CrossEntropy(weight, recipe.label_smoothing)


def balanced_weights(labels: Tensor, n_labels: int) -> Tensor:
    """n / (k * count) of each label, scikit-learn's `balanced`; (k,) float32. A label with no photo weighs as one with one."""
    counts = torch.bincount(labels, minlength=n_labels).clamp(min=1)
    return len(labels) / (n_labels * counts.float())
