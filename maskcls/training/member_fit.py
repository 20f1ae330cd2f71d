"""One member's side of a fit: its optimizer, its schedule, its loss, and one epoch of steps."""

import math

import torch
from torch import Tensor, nn

from maskcls.errors import RunError
from maskcls.models.member import Member, derived_seed
from maskcls.recipe import Recipe
from maskcls.training.fit_data import FitData
from maskcls.training.losses import create_loss
from maskcls.training.views import ViewBatches

LOSS_CHECK_STEPS = 50  # looking at a loss makes the host wait for the device


class Diverged(RunError):  # noqa: N818  the name of the trial's state
    """A loss or an answer is not finite."""


class MemberFit:
    """Trains one member, an epoch at a time. All that is random in an epoch comes from (seed, member, epoch)."""

    def __init__(self, recipe: Recipe, member: Member, data: FitData, number: int, *, precision: torch.dtype, workers: int) -> None:
        self.recipe, self.member, self.number, self.precision = recipe, member, number, precision
        self.device = member.mean.device
        labels = member.task.of(data.labels[data.train])
        self.batches = ViewBatches(recipe, data, labels, member.task.n_labels, number, workers=workers, pin=self.device.type == "cuda")
        self.loss = create_loss(recipe, torch.from_numpy(labels), member.task.n_labels).to(self.device)
        self.optimizer = create_optimizer(recipe, member)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]

    def train_epoch(self, epoch: int) -> tuple[float, int]:
        """One epoch (0-based); the mean loss of its photos, and how many they were. Raises Diverged."""
        torch.manual_seed(derived_seed(self.recipe.seed, self.number, epoch))  # dropout, drop-path
        self.member.train()
        total = torch.zeros((), device=self.device)
        photos = 0
        for step, (pixels, labels) in enumerate(self.batches.epoch(epoch)):
            self._set_rates(epoch * self.batches.steps + step)
            total += self.step(pixels, labels) * len(labels)
            photos += len(labels)
            if (step + 1) % LOSS_CHECK_STEPS == 0:
                self._check(total, epoch)
        self._check(total, epoch)
        return total.item() / photos, photos

    def step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """One training step on a batch, (b, s, s, 3) uint8 and (b,) int64, from wherever it lies; its loss, on the device."""
        pixels, labels = pixels.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.member(pixels)
        loss: Tensor = self.loss(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.member.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _set_rates(self, step: int) -> None:
        factor = rate_factor(self.recipe, step / self.batches.steps)
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def _check(self, total: Tensor, epoch: int) -> None:
        if not math.isfinite(total.item()):
            raise Diverged(f"The loss of {self.member.task.name} is not finite in epoch {epoch + 1}. A lower learning rate may help.")


def rate_factor(recipe: Recipe, epochs: float) -> float:
    """What the learning rates are multiplied by after so many epochs: linear warm-up, then constant or cosine to zero at the end."""
    if epochs < recipe.warmup_epochs:
        return epochs / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return 1.0
    share = (epochs - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def create_optimizer(recipe: Recipe, member: Member) -> torch.optim.Optimizer:
    """The recipe's optimizer over what moves; weights decay, biases and norms (one dimension) do not, as timm has it."""
    groups = []
    for module, rate in ((member.head, recipe.lr_head), (member.backbone, recipe.lr_body)):
        moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for decays in (True, False):
            parameters = [parameter for parameter in moving if (parameter.ndim > 1) == decays]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": recipe.weight_decay * decays})
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
