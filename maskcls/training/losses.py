"""Losses over one task's labels, each a mean over the batch.

Shapes: b photos in a batch, p in a part of it, k labels of the task. A target is one label per photo, (b,) int64, or,
where photos are mixed, shares of the k labels, (b, k) float32, rows summing to one.

If a batch goes through the model in parts, a loss is given the target of the whole batch beside the part's, and
returns what the part adds to the batch's mean. With label weights, too, it divides by the weight of the whole batch,
so that the parts add up to the batch's loss. Soft F1 is not a mean over photos: there the sum is the mean of the
parts' own losses, weighted by their numbers of photos.

If the label of some photos of a batch is not known, the mean is over those whose label is: their rows of a target,
then (b, k), sum to zero, and `known` (p,) holds the sum of each row. Where photos are mixed, a row sums to the share of
the photo whose label is known, and the photo counts by that share: half of a face teaches half as much. A batch without
any known label has the loss zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that torch's own documentation uses

from maskcls.labels import UNKNOWN
from maskcls.recipe import Recipe

SMALLEST_DOUBT = 1e-6
"""Lower bound of 1 - p: at 0, where a prediction is certain, its power has no finite gradient for gamma below 1."""
LEAST_KNOWN = 1e-6
"""Lower bound of sums over known labels, by which losses divide: where no label is known, 0 / it is 0."""
AGE_CENTRE_YEARS, AGE_SPAN_YEARS = 40.0, 20.0
"""Ages are regressed on a scale of about -1 to 1: (years - AGE_CENTRE_YEARS) / AGE_SPAN_YEARS."""


class FocalLoss(nn.Module):
    """Multi-class focal loss: mean over the batch of -w_y (1 - p_y)^gamma log p_y, divided by the mean weight.

    The division is that of torch's cross entropy.

    Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, equation 5, with a softmax.
    Label smoothing moves the share `smoothing` of the target evenly to all k labels (Szegedy et al., "Rethinking the
    Inception Architecture", CVPR 2016, section 7); each label's term keeps its own focusing factor.

    Args:
        gamma: focusing; 0 gives cross entropy.
        weight: (k,) weight of each label, or None for equal weights.
        smoothing: in 0..1.
    """

    weight: Tensor | None

    def __init__(self, gamma: float, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.smoothing = smoothing
        self.register_buffer("weight", weight)

    def forward(
        self, logits: Tensor, target: Tensor, batch: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: (p, k).
            target: (p,) int64 or (p, k).
            batch: the whole batch's target, (b,) or (b, k), if these are a part of it; None if they are all of it.
            known: (p,) how much of each photo's label is known, 0 to 1; None if all are. See above.
        """
        log_p = logits.float().log_softmax(1)  # (p, k)
        doubt = (1 - log_p.exp()).clamp(min=SMALLEST_DOUBT)  # (p, k)
        terms = -(doubt**self.gamma) * log_p  # (p, k) the loss if each label were the target
        return _mean_of_terms(terms, target, batch, known, self.weight, self.smoothing)


class CrossEntropy(nn.Module):
    """torch's cross entropy, with label smoothing in 0..1 and label weights (k,) or None."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", weight)

    def forward(
        self, logits: Tensor, target: Tensor, batch: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar. Args as in `FocalLoss.forward`."""
        if known is not None:  # torch smooths rows that sum to less than one as if they did not
            terms = -logits.float().log_softmax(1)  # (p, k)
            return _mean_of_terms(terms, target, batch, known, self.weight, self.smoothing)
        batch = target if batch is None else batch
        loss = F.cross_entropy(logits.float(), target, weight=self.weight, label_smoothing=self.smoothing)
        if self.weight is None:
            return loss * (len(target) / len(batch))
        # torch has divided by the part's total weight; multiply by its share of the batch's.
        if target.ndim == 1:
            return loss * (self.weight[target].sum() / self.weight[batch].sum())
        # For shares, torch divides by the number of photos, not by their weight.
        return loss * len(target) / (batch @ self.weight).sum()


class SoftF1(nn.Module):
    """1 - macro F1 of the batch, where tp, fp and fn are sums of probabilities instead of counts of decisions.

    F1 of a label is 2 tp / (2 tp + fp + fn). The F1 loss of the contest's teams. A label that no photo of the batch has
    does not count: its F1 is 0 whatever is predicted. Label smoothing as in `FocalLoss`.

    Args:
        weight: (k,) weight of each label in the mean, or None for equal weights.
        smoothing: in 0..1.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weight", weight)

    def forward(
        self, logits: Tensor, target: Tensor, batch: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar in 0..1. Args as in `FocalLoss.forward`."""
        p = logits.float().softmax(1)  # (p, k)
        n_labels = logits.shape[1]
        shares = shares_of(target, n_labels)  # (p, k)
        present = (shares.sum(0) > 0).float()  # (k,)
        weight = present if self.weight is None else present * self.weight
        uniform: Tensor | float = self.smoothing / n_labels
        if known is not None:  # what is predicted for an unknown label is neither right nor wrong
            p, uniform = p * known[:, None], uniform * known[:, None]
        shares = (1 - self.smoothing) * shares + uniform
        counts = p.sum(0) + shares.sum(0)  # (k,); 2 tp + fp + fn = predicted + true
        f1 = 2 * (p * shares).sum(0) / (counts if known is None else counts.clamp(min=LEAST_KNOWN))  # (k,)
        loss: Tensor = 1 - (f1 * weight).sum() / (
            weight.sum() if known is None else weight.sum().clamp(min=LEAST_KNOWN)
        )
        if known is not None:
            return loss * _share_of_known(target, batch)
        return loss if batch is None else loss * (len(target) / len(batch))


class Sum(nn.Module):
    """(1 - share) times the first loss plus `share`, in 0..1, times the second."""

    def __init__(self, first: nn.Module, second: nn.Module, share: float) -> None:
        super().__init__()
        self.first, self.second, self.share = first, second, share

    def forward(
        self, logits: Tensor, target: Tensor, batch: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """The loss, a scalar. Args as in `FocalLoss.forward`."""
        first, second = (loss(logits, target, batch, known) for loss in (self.first, self.second))
        total: Tensor = (1 - self.share) * first + self.share * second
        return total


def _mean_of_terms(
    terms: Tensor, target: Tensor, batch: Tensor | None, known: Tensor | None, weight: Tensor | None, smoothing: float
) -> Tensor:
    """The mean over the batch of each photo's terms, by its label; a scalar.

    Args:
        terms: (p, k) the loss of each photo if each label were its target.
        target, batch, known: as in `FocalLoss.forward`.
        weight, smoothing: as of `FocalLoss`.
    """
    n_labels = terms.shape[1]
    weight = torch.ones(n_labels, device=terms.device) if weight is None else weight
    terms = terms * weight
    shares = shares_of(target, n_labels)  # (p, k)
    own, uniform = (terms * shares).sum(1), terms.mean(1)  # (p,) each
    if known is not None:
        uniform = uniform * known
    smoothed = (1 - smoothing) * own + smoothing * uniform
    whole = shares if batch is None else shares_of(batch, n_labels)  # (b, k)
    total = (whole @ weight).sum()  # the batch's total weight, by which torch's cross entropy divides
    return smoothed.sum() / (total if known is None else total.clamp(min=LEAST_KNOWN))


def _share_of_known(target: Tensor, batch: Tensor | None) -> Tensor:
    """Which share of the batch's known labels the part has, 0 to 1, a scalar; 0 if no label is known.

    Args:
        target: (p, k) of the part.
        batch: (b, k) of the batch; None if the part is all of it.
    """
    share: Tensor = target.sum() / (target if batch is None else batch).sum().clamp(min=LEAST_KNOWN)
    return share


def shares_of(target: Tensor, n_labels: int) -> Tensor:
    """A target, (b,) int64 or (b, k), as shares of the labels, (b, k) float32."""
    return F.one_hot(target, n_labels).float() if target.ndim == 1 else target


def age_loss(prediction: Tensor, ages: Tensor, n: int | Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """Huber loss of an age regression, a scalar: mean over the batch. Huber, Annals of Math. Statistics 35(1), 1964.

    Args:
        prediction: (p,) on the scale (years - AGE_CENTRE_YEARS) / AGE_SPAN_YEARS.
        ages: (p,) years.
        n: photos in the whole batch, if these are a part of it; with `known`, the sum of `known` over the whole batch.
        known: (p,) how much of each photo's age is known, 0 to 1; None if all are.
    """
    target = (ages.float() - AGE_CENTRE_YEARS) / AGE_SPAN_YEARS  # (p,)
    if known is not None:
        losses = F.smooth_l1_loss(prediction.float(), target, reduction="none") * known  # (p,)
        return losses.sum() / torch.as_tensor(known.sum() if n is None else n).clamp(min=LEAST_KNOWN)
    loss = F.smooth_l1_loss(prediction.float(), target)
    return loss if n is None else loss * (len(ages) / n)


def create_loss(recipe: Recipe, labels: Tensor, n_labels: int) -> nn.Module:
    """Create the recipe's loss for a task.

    Args:
        labels: (n,) int64 of the training photos, for balanced label weights; UNKNOWN ones do not count.
        n_labels: k.

    Raises ValueError for a name that `recipe.LossName` does not have.
    """
    weight = balanced_weights(labels, n_labels) if recipe.class_weights == "balanced" else None

    def named(name: str) -> nn.Module:
        if name == "focal":
            return FocalLoss(recipe.focal_gamma, weight, recipe.label_smoothing)
        if name == "soft_f1":
            return SoftF1(weight, recipe.label_smoothing)
        if name == "cross_entropy":
            return CrossEntropy(weight, recipe.label_smoothing)
        raise ValueError(f"There is no loss {name!r}.")

    first = named(recipe.loss)
    return first if recipe.second_loss == "none" else Sum(first, named(recipe.second_loss), recipe.second_loss_weight)


def balanced_weights(labels: Tensor, n_labels: int) -> Tensor:
    """n / (k * count) for each label, (k,) float32, as scikit-learn's `balanced`; a count of 0 is taken as 1.

    Args:
        labels: (n,) int64; UNKNOWN ones do not count.
    """
    labels = labels[labels != UNKNOWN]
    counts = torch.bincount(labels, minlength=n_labels).clamp(min=1)
    return len(labels) / (n_labels * counts.float())
