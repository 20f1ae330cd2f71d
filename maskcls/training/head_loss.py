"""The loss of one head of a model, and the mean loss of an epoch.

Shapes: b photos in a batch, p in a part of it that goes through the model at once (a micro-batch), k labels of a task,
n photos trained on. Positions count the photos trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maskcls.labels import UNKNOWN
from maskcls.recipe import Recipe
from maskcls.tasks import Task
from maskcls.training.fit_data import TrainingPhotos
from maskcls.training.losses import LEAST_KNOWN, age_loss, create_loss, shares_of


class HeadLoss(nn.Module):
    """The loss of one head: on the labels of its task, and, if its recipe asks for it, on the ages.

    A photo whose label or age is not known does not count in that mean. Only heads that share a backbone meet photos
    without their label: they share its batches. A model of one task draws no such photo (`TrainingPhotos`).

    Args:
        recipe: of the head's member (`Recipe.of_member`).
        photos: trained on; their labels (n,) and ages (n,) become buffers on the device.
    """

    labels: Tensor
    ages: Tensor

    def __init__(self, recipe: Recipe, task: Task, photos: TrainingPhotos) -> None:
        super().__init__()
        self.recipe = recipe
        labels, ages = torch.from_numpy(photos.labels(task)), torch.from_numpy(photos.ages)
        self.n_labels = task.n_labels
        self.loss = create_loss(recipe, labels, task.n_labels)
        self.lacks_labels, self.lacks_ages = (bool((values == UNKNOWN).any()) for values in (labels, ages))
        self.register_buffer("labels", labels)
        self.register_buffer("ages", ages.float())

    def forward(
        self, logits: Tensor, ages: Tensor | None, positions: Tensor, shares: Tensor | None, part: slice = slice(None)
    ) -> Tensor:
        """The head's weighted loss, a scalar, for a part of the batch; the parts' losses add up to the batch's.

        Args:
            logits: (p, k) of the part.
            ages: (p,) the head's regression on the scale of `losses.age_loss`; None where there is none.
            positions: (b,) of the batch's photos among those trained on.
            shares: (b, b) of each photo in each, where the batch was mixed (`training.mixing`).
            part: which p of the b photos; all of them by default.
        """
        target, known = self._target(positions, shares)
        loss: Tensor = self.loss(logits, target[part], target, None if known is None else known[part])
        if ages is None:
            return self.recipe.loss_weight * loss
        years, known = self._years(positions, shares)
        regression = (
            age_loss(ages, years[part], len(years))
            if known is None
            else age_loss(ages, years[part], known.sum(), known[part])
        )
        return self.recipe.loss_weight * (loss + self.recipe.age_regression * regression)

    def n_known(self, positions: Tensor) -> Tensor:
        """How many of these photos (b,) have a label for the head, a scalar."""
        return (self.labels[positions] != UNKNOWN).sum()

    def _target(self, positions: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The batch's target, (b,) or (b, k), and how much of each photo's label is known, (b,); None: all."""
        target, known = self.labels[positions], None  # (b,) int64
        if self.lacks_labels:
            known = (target != UNKNOWN).float()
            target = shares_of(target.clamp(min=0), self.n_labels) * known[:, None]  # (b, k): rows of zeros have none
        if shares is not None:  # (b, b) @ (b, k) -> (b, k), and (b, b) @ (b,) -> (b,)
            target = shares @ shares_of(target, self.n_labels)
            known = None if known is None else shares @ known
        return target, known

    def _years(self, positions: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The batch's ages in years, (b,), and how much of each is known, (b,); None: all.

        Where a photo is mixed, its age is the mean over those in it whose age is known, by their shares.
        """
        years, known = self.ages[positions], None  # (b,) float32
        if self.lacks_ages:
            known = (years != UNKNOWN).float()
            years = years * known
        if shares is not None:  # (b, b) @ (b,) -> (b,)
            years = shares @ years
            if known is not None:
                known = shares @ known
                years = years / known.clamp(min=LEAST_KNOWN)
        return years, known


class EpochLoss:
    """The mean loss of an epoch's photos, added up on the device, so that the host need not wait for it.

    Where labels are not known, each head's loss of a batch counts by the number of its labels that are, of which it is
    the mean.

    Args:
        heads: of the model, on its device.
    """

    def __init__(self, heads: Sequence[HeadLoss]) -> None:
        device = heads[0].labels.device
        self._heads, self._has_gaps = heads, any(head.lacks_labels for head in heads)
        self._total = torch.zeros((), device=device)
        self._of_heads, self._known = torch.zeros(2, len(heads), device=device)  # (heads,) each
        self.photos = 0

    def add(self, losses: Tensor, positions: Tensor) -> None:
        """Add a batch.

        Args:
            losses: (parts, heads), each part's share of each head's mean over the batch.
            positions: (b,) of the batch's photos among those trained on.
        """
        self.photos += len(positions)
        self._total += batch_loss(losses) * len(positions)
        if self._has_gaps:
            known = torch.stack([head.n_known(positions) for head in self._heads])  # (heads,)
            self._of_heads += losses.sum(0) * known
            self._known += known

    @property
    def total(self) -> float:
        """The sum over the photos so far: not finite where a loss was not."""
        return float(self._total)

    @property
    def mean(self) -> float:
        """The mean over the photos so far, summed over the heads."""
        if self._has_gaps:
            return float((self._of_heads / self._known.clamp(min=1)).sum())
        return self.total / self.photos


def batch_loss(losses: Tensor) -> Tensor:
    """A batch's loss, a scalar, of its parts' losses (parts, heads), which are added one after the other."""
    total = torch.zeros((), device=losses.device)
    for part in losses:
        total += part.sum()
    return total
