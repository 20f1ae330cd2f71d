"""One model's side of a fit: its optimizer, its schedule, its losses, and one epoch of steps."""

import math

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from maskcls.data.sampling import DrawStream
from maskcls.errors import RunError
from maskcls.models.model import Model, derived_seed
from maskcls.recipe import Recipe
from maskcls.tasks import Task, task
from maskcls.training.fit_data import FitData, TrainingPhotos
from maskcls.training.losses import age_loss, create_loss, shares_of
from maskcls.training.mixing import mix
from maskcls.training.views import ViewBatches

LOSS_CHECK_STEPS = 50  # looking at a loss makes the host wait for the device
MIX_STREAM = 1  # keeps what mixes batches apart from what drops units, where their seeds' parts are equal


class Diverged(RunError):  # noqa: N818  the name of the trial's state
    """A loss or an answer is not finite."""


class Objective(nn.Module):
    """What one head is told: the labels of its task, and, where its recipe asks for it, the ages beside them."""

    labels: Tensor
    ages: Tensor

    def __init__(self, recipe: Recipe, task: Task, photos: TrainingPhotos) -> None:
        super().__init__()
        self.recipe = recipe
        labels = torch.from_numpy(task.of(photos.classes))
        self.n_labels = task.n_labels
        self.loss = create_loss(recipe, labels, task.n_labels)
        self.register_buffer("labels", labels)
        self.register_buffer("ages", torch.from_numpy(photos.ages).float())

    def forward(self, logits: Tensor, ages: Tensor | None, positions: Tensor, shares: Tensor | None) -> Tensor:
        """Its share of the loss.

        Args:
            logits: (b, k).
            ages: (b,) the head's regression, on its own scale; None where there is none.
            positions: (b,) of the photos among those trained on.
            shares: (b, b) of each photo in each, where the batch was mixed.
        """
        target, years = self.labels[positions], self.ages[positions]
        if shares is not None:
            target, years = shares @ shares_of(target, self.n_labels), shares @ years
        loss: Tensor = self.loss(logits, target)
        if ages is not None:
            loss = loss + self.recipe.age_regression * age_loss(ages, years)
        return self.recipe.loss_weight * loss


class ModelFit:
    """Trains one model, an epoch at a time. All that is random in an epoch comes from (seed, model, epoch).

    A model of one task is fed by that task's labels; a shared backbone, whose heads see the same batches, by the 18 classes.
    """

    def __init__(self, recipe: Recipe, model: Model, data: FitData, number: int, *, precision: torch.dtype, workers: int) -> None:
        self.model, self.number, self.precision = model, number, precision
        self.recipe = model.recipe
        self.device = model.mean.device
        photos = TrainingPhotos.of(self.recipe, model.tasks, data.labels, data.ages, data.train)
        drawn = model.tasks[0] if len(model.tasks) == 1 else task("classes")
        draws = DrawStream(drawn.of(photos.classes), drawn.n_labels, self.recipe.sampler, self.recipe.seed, number)
        self.batches = ViewBatches(self.recipe, data, photos.rows, draws, workers=workers, pin=self.device.type == "cuda")
        self.objectives = nn.ModuleList(Objective(recipe.of_member(t.name), t, photos) for t in model.tasks).to(self.device)
        self.optimizer = create_optimizer(recipe, model)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = ModelEmaV3(model, decay=self.recipe.ema_decay, use_warmup=True) if self.recipe.ema_decay else None

    @property
    def answering(self) -> Model:
        """What is validated and kept: the moving average of the weights where the recipe asks for one, else the model itself."""
        if self.average is None:
            return self.model
        averaged: Model = self.average.module
        return averaged

    def train_epoch(self, epoch: int) -> tuple[float, int]:
        """One epoch (0-based); the mean loss of its photos, and how many they were. Raises Diverged."""
        torch.manual_seed(derived_seed(self.recipe.seed, self.number, epoch))  # dropout, drop-path
        self.model.train()
        total = torch.zeros((), device=self.device)
        photos = 0
        for step, (pixels, positions) in enumerate(self.batches.epoch(epoch), start=epoch * self.batches.steps):
            self._set_rates(step)
            total += self.step(pixels, positions, step) * len(positions)
            photos += len(positions)
            if (step + 1) % LOSS_CHECK_STEPS == 0:
                self._check(total, epoch)
        self._check(total, epoch)
        return total.item() / photos, photos

    def step(self, pixels: Tensor, positions: Tensor, number: int = 0) -> Tensor:
        """Training step `number` of the fit on a batch, (b, s, s, 3) uint8 and (b,) int64, from wherever it lies; its loss."""
        pixels, positions = pixels.to(self.device, non_blocking=True), positions.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            images = self.model.normalise(pixels)  # (b, 3, s, s)
            shares = mix(images, self.recipe, derived_seed(self.recipe.seed, self.number, number, MIX_STREAM))
            features = self.model.backbone(images)
            logits, ages = self.model.logits(features), self.model.ages(features)
        losses = [told(*answer, positions, shares) for told, *answer in zip(self.objectives, logits, ages, strict=True)]
        loss = torch.stack(losses).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, step=number + 1)
        return loss.detach()

    def _set_rates(self, step: int) -> None:
        factor = rate_factor(self.recipe, step / self.batches.steps)
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def _check(self, total: Tensor, epoch: int) -> None:
        if not math.isfinite(total.item()):
            name = " and ".join(t.name for t in self.model.tasks)
            raise Diverged(f"The loss of {name} is not finite in epoch {epoch + 1}. A lower learning rate may help.")


def rate_factor(recipe: Recipe, epochs: float) -> float:
    """What the learning rates are multiplied by after so many epochs: linear warm-up, then constant or cosine to zero at the end."""
    if epochs < recipe.warmup_epochs:
        return epochs / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return 1.0
    share = (epochs - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def create_optimizer(recipe: Recipe, model: Model) -> torch.optim.Optimizer:
    """The optimizer over what moves, each head at its member's own rate.

    Weights decay, biases and norms (one dimension) do not, as timm has it.

    Args:
        recipe: the fit's.
    """
    parts: list[tuple[nn.Module, float]] = []
    for name, head in model.heads.items():
        rate = recipe.of_member(name).lr_head
        parts += [(head, rate)] + [(regression, rate) for regressed, regression in model.age_heads.items() if regressed == name]
    groups = []
    for module, rate in (*parts, (model.backbone, model.recipe.lr_body)):
        moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for decays in (True, False):
            parameters = [parameter for parameter in moving if (parameter.ndim > 1) == decays]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": model.recipe.weight_decay * decays})
    if model.recipe.optimizer == "adam":
        return torch.optim.Adam(groups)
    if model.recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
