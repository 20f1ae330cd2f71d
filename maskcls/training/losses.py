"""Losses over one task's labels, each a mean over the batch.

A target is a label for each photo, (b,) int64, or its shares of the k labels, (b, k), rows summing to one, where photos are mixed.

Where a batch goes through the model in parts, a loss is told the target of the whole batch beside the part's, and gives what the part
adds to the batch's mean: with label weights, too, parts are divided by the weight of the whole batch, so that they add up to its loss.
Soft F1 is no mean over photos; there the sum is the mean of the parts' own losses, each counted by its photos.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from maskcls.recipe import Recipe

SMALLEST_DOUBT = 1e-6
"""1 - p is never less: below gamma 1 its power has no gradient at 0, where a photo is certain."""
AGE_CENTRE_YEARS, AGE_SPAN_YEARS = 40.0, 20.0
"""Ages in years are brought to about -1 to 1 before they are regressed."""


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

    def forward(self, logits: Tensor, target: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (b, k) and a target -> a scalar. `batch`: the whole batch's target, where these are a part of it."""
        log_p = logits.float().log_softmax(1)  # (b, k)
        doubt = (1 - log_p.exp()).clamp(min=SMALLEST_DOUBT)
        terms = -(doubt**self.gamma) * log_p
        weight = torch.ones(logits.shape[1], device=logits.device) if self.weight is None else self.weight
        terms = terms * weight
        shares = shares_of(target, logits.shape[1])
        own = (terms * shares).sum(1)
        smoothed = (1 - self.smoothing) * own + self.smoothing * terms.mean(1)
        whole = shares if batch is None else shares_of(batch, logits.shape[1])
        return smoothed.sum() / (whole @ weight).sum()


class CrossEntropy(nn.Module):
    """torch's cross entropy, with label smoothing and label weights (k,) or None."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (b, k) and a target -> a scalar. `batch`: the whole batch's target, where these are a part of it."""
        batch = target if batch is None else batch
        loss = F.cross_entropy(logits.float(), target, weight=self.weight, label_smoothing=self.smoothing)
        if self.weight is None:
            return loss * (len(target) / len(batch))
        if target.ndim == 1:
            return loss * (self.weight[target].sum() / self.weight[batch].sum())
        return (
            loss * len(target) / (batch @ self.weight).sum()
        )  # for shares, torch divides by the photos, not by their weight


class SoftF1(nn.Module):
    """1 - the mean over the labels in the batch of 2 tp / (2 tp + fp + fn), counted with probabilities instead of decisions.

    The contest's F1 loss. A label that no photo of the batch has does not count: its F1 is 0 whatever is answered.
    Label smoothing moves the share `smoothing` of the target evenly to all k labels.

    Args:
        weight: (k,) weight of each label in the mean, or None.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", weight)

    def forward(self, logits: Tensor, target: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (b, k) and a target -> a scalar in 0..1. `batch`: the whole batch's target, where these are a part of it."""
        p = logits.float().softmax(1)  # (b, k)
        n_labels = logits.shape[1]
        shares = shares_of(target, n_labels)
        present = (shares.sum(0) > 0).float()
        weight = present if self.weight is None else present * self.weight
        shares = (1 - self.smoothing) * shares + self.smoothing / n_labels
        f1 = 2 * (p * shares).sum(0) / (p.sum(0) + shares.sum(0))  # 2 tp + fp + fn are all answers and all targets
        loss: Tensor = 1 - (f1 * weight).sum() / weight.sum()
        return loss if batch is None else loss * (len(target) / len(batch))


class Sum(nn.Module):
    """(1 - share) of the first loss and `share` of the second."""

    def __init__(self, first: nn.Module, second: nn.Module, share: float) -> None:
        super().__init__()
        self.first, self.second, self.share = first, second, share

    def forward(self, logits: Tensor, target: Tensor, batch: Tensor | None = None) -> Tensor:
        """Logits (b, k) and a target -> a scalar. `batch`: the whole batch's target, where these are a part of it."""
        total: Tensor = (1 - self.share) * self.first(logits, target, batch) + self.share * self.second(
            logits, target, batch
        )
        return total


def shares_of(target: Tensor, n_labels: int) -> Tensor:
    """A target as shares of the labels, (b, k) float32."""
    return F.one_hot(target, n_labels).float() if target.ndim == 1 else target


def age_loss(answer: Tensor, ages: Tensor, n: int | None = None) -> Tensor:
    """Huber loss of an age regression, mean over the batch: answers (b,) on the scale of AGE_SPAN_YEARS, ages (b,) in years.

    Args:
        n: photos of the whole batch, where these are a part of it.
    """
    loss = F.smooth_l1_loss(answer.float(), (ages.float() - AGE_CENTRE_YEARS) / AGE_SPAN_YEARS)
    return loss if n is None else loss * (len(ages) / n)


def create_loss(recipe: Recipe, labels: Tensor, n_labels: int) -> nn.Module:
    """The recipe's loss for a task whose training photos have `labels` (n,) out of `n_labels`."""
    weight = balanced_weights(labels, n_labels) if recipe.class_weights == "balanced" else None

    def named(name: str) -> nn.Module:
        if name == "focal":
            return FocalLoss(recipe.focal_gamma, weight, recipe.label_smoothing)
        if name == "soft_f1":
            return SoftF1(weight, recipe.label_smoothing)
        return CrossEntropy(weight, recipe.label_smoothing)

    first = named(recipe.loss)
    return first if recipe.second_loss == "none" else Sum(first, named(recipe.second_loss), recipe.second_loss_weight)


def balanced_weights(labels: Tensor, n_labels: int) -> Tensor:
    """n / (k * count) of each label, scikit-learn's `balanced`; (k,) float32. A label with no photo weighs as one with one."""
    counts = torch.bincount(labels, minlength=n_labels).clamp(min=1)
    return len(labels) / (n_labels * counts.float())
