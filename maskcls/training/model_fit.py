"""One model's side of a fit: its optimizer, its schedule, its losses, and one epoch of steps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from maskcls.data.sampling import DrawStream
from maskcls.errors import Diverged
from maskcls.models.model import Model
from maskcls.models.prefix import Prefix
from maskcls.recipe import Recipe
from maskcls.seeds import torch_seed
from maskcls.stores.features import FeatureStores
from maskcls.tasks import Task, task
from maskcls.training.batches import Batches, FeatureBatches, ViewBatches
from maskcls.training.fit_data import FitData, TrainingPhotos
from maskcls.training.frozen import UNAUGMENTED, FrozenStages, cache_for_training, cache_for_validation
from maskcls.training.losses import age_loss, create_loss, shares_of
from maskcls.training.mixing import mix

LOSS_CHECK_STEPS = 50  # looking at a loss makes the host wait for the device
MIX_STREAM = 1  # keeps what mixes batches apart from what drops units, where their seeds' parts are equal


class HeadLoss(nn.Module):
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

    def forward(
        self, logits: Tensor, ages: Tensor | None, positions: Tensor, shares: Tensor | None, part: slice = slice(None)
    ) -> Tensor:
        """Its share of the loss, as far as it comes from a part of the batch: the parts' add up to the batch's.

        Args:
            logits: (p, k) of the part.
            ages: (p,) the head's regression, on its own scale; None where there is none.
            positions: (b,) of the batch's photos among those trained on.
            shares: (b, b) of each photo in each, where the batch was mixed.
            part: which p of the b photos; all of them by default.
        """
        target, years = self.labels[positions], self.ages[positions]
        if shares is not None:
            target, years = shares @ shares_of(target, self.n_labels), shares @ years
        loss: Tensor = self.loss(logits, target[part], target)
        if ages is not None:
            loss = loss + self.recipe.age_regression * age_loss(ages, years[part], len(years))
        return self.recipe.loss_weight * loss


class ModelFit:
    """Trains one model, an epoch at a time. All that is random in an epoch comes from (seed, model, epoch).

    A model of one task is fed by that task's labels; a shared backbone, whose heads see the same batches, by the 18 classes.

    Args:
        micro_batch: how many photos go through the model at a time at most; 0: a whole batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        data: FitData,
        number: int,
        *,
        precision: torch.dtype,
        workers: int,
        stores: FeatureStores | None = None,
        micro_batch: int = 0,
    ) -> None:
        self.model, self.number, self.precision, self.micro_batch = model, number, precision, micro_batch
        self.recipe = model.recipe
        self.device = model.mean.device
        photos = TrainingPhotos.of(self.recipe, model.tasks, data.labels, data.ages, data.train)
        drawn = model.tasks[0] if len(model.tasks) == 1 else task("classes")
        draws = DrawStream(drawn.of(photos.classes), drawn.n_labels, self.recipe.sampler, self.recipe.seed, number)
        prefix = Prefix.of(model.backbone, self.recipe.image_size)
        self.frozen = None if prefix is None else FrozenStages(model, prefix, data)
        self.training_cache = cache_for_training(self.frozen, stores, self.recipe, precision, draws)
        self.validation_cache = cache_for_validation(self.frozen, stores, self.recipe, self.training_cache)
        cached, pin = self.training_cache.features, self.device.type == "cuda"
        self.batches: Batches = (
            ViewBatches(self.recipe, data, photos.rows, draws, workers=workers, pin=pin)
            if cached is None
            else FeatureBatches(self.recipe, photos.rows, draws, cached, pin=pin)
        )
        self.head_losses = nn.ModuleList(HeadLoss(recipe.of_member(t.name), t, photos) for t in model.tasks).to(
            self.device
        )
        self._backbone = (
            torch.compile(model.backbone) if self.recipe.compile and self.frozen is None else model.backbone
        )
        self.optimizer = create_optimizer(recipe, model)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = (
            ModelEmaV3(model, decay=self.recipe.ema_decay, use_warmup=True) if self.recipe.ema_decay else None
        )

    @property
    def eval_model(self) -> Model:
        """What is validated and kept: the moving average of the weights where the recipe asks for one, else the model itself."""
        if self.average is None:
            return self.model
        averaged: Model = self.average.module
        return averaged

    def train_epoch(self, epoch: int) -> tuple[float, int]:
        """One epoch (0-based); the mean loss of its photos, and how many they were. Raises Diverged."""
        torch.manual_seed(torch_seed(self.recipe.seed, self.number, epoch))  # dropout, drop-path
        self.model.train()
        total = torch.zeros((), device=self.device)
        photos = 0
        for step, (inputs, positions) in enumerate(self.batches.epoch(epoch), start=epoch * self.batches.steps):
            self._set_rates(step)
            total += self.step(inputs, positions, step) * len(positions)
            photos += len(positions)
            if (step + 1) % LOSS_CHECK_STEPS == 0:
                self._check(total, epoch)
        self._check(total, epoch)
        return total.item() / photos, photos

    def step(self, inputs: Tensor, positions: Tensor, number: int = 0) -> Tensor:
        """Training step `number` of the fit on a batch of `batches`: pixels or kept features (b, ...), and (b,) int64; its loss.

        The batch goes through the model in equal parts of at most `micro_batch` photos, whose gradients add up to the whole batch's, up to
        rounding: the losses divide by the whole batch (`training.losses`), and photos are mixed across all of it. What a part alone
        decides: the statistics that BatchNorm normalises by, soft F1, and which units dropout drops.
        """
        inputs, positions = inputs.to(self.device, non_blocking=True), positions.to(self.device, non_blocking=True)
        with self._autocast():
            inputs, shares = self._mixed(inputs, number)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in parts(len(positions), self.micro_batch):
            with self._autocast():
                features = self._features(inputs[part])
                logits, ages = self.model.logits(features), self.model.ages(features)
            told = zip(self.head_losses, logits, ages, strict=True)
            loss = torch.stack([head_loss(*answer, positions, shares, part) for head_loss, *answer in told]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, step=number + 1)
        return total

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def _mixed(self, inputs: Tensor, number: int) -> tuple[Tensor, Tensor | None]:
        """A batch as the model takes it, and the shares (b, b) of each photo in each where it was mixed. Kept features stay as they are."""
        if self.training_cache.features is not None:
            return inputs, None
        images = self.model.normalise(inputs)  # (b, 3, s, s)
        return images, mix(images, self.recipe, torch_seed(self.recipe.seed, self.number, number, MIX_STREAM))

    def _features(self, inputs: Tensor) -> Tensor:
        """The backbone's features (p, n_features) of a part of what `_mixed` gave.

        Frozen stages run without gradients, as `training.frozen` has it, or have run before.
        """
        if self.frozen is None:
            return self._backbone(inputs)  # type: ignore[no-any-return]
        if self.training_cache.features is None:
            block = self.frozen.block if self.device.type == "cpu" else len(inputs)
            inputs = self.frozen.of_images(inputs, self.precision, block)
        return self.frozen.prefix.rest(inputs)

    def validation_features(self, rows: NDArray[np.int64]) -> Tensor:
        """What the frozen stages give for rows of the data as they are, float32, on the model's device. For models with some."""
        cached = self.validation_cache.features
        if cached is None:
            assert self.frozen is not None
            return self.frozen.compute(rows, np.full(len(rows), UNAUGMENTED), torch.float32)
        return cached.of(rows).to(self.device)

    @property
    def frozen_features(self) -> str:
        """`kept`, or why what the frozen stages give is not: for the training views, and for validation where that differs."""
        training, validation = self.training_cache.status, self.validation_cache.status
        return training if training == validation else f"{training}; for validation: {validation}"

    @property
    def cache_trouble(self) -> str:
        """What is wrong with the cache that should hold frozen features; "" where nothing is."""
        return self.training_cache.problem or self.validation_cache.problem

    def _set_rates(self, step: int) -> None:
        factor = rate_factor(self.recipe, step / self.batches.steps)
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def _check(self, total: Tensor, epoch: int) -> None:
        if not math.isfinite(total.item()):
            name = " and ".join(t.name for t in self.model.tasks)
            raise Diverged(f"The loss of {name} is not finite in epoch {epoch + 1}. A lower learning rate may help.")


def parts(n: int, most: int) -> list[slice]:
    """n photos cut into as few parts of at most `most` as will do, whose sizes differ by one at most; 0: one part."""
    count = -(-n // most) if most else 1
    ends = [n * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


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
        parts += [(head, rate)] + [
            (regression, rate) for regressed, regression in model.age_heads.items() if regressed == name
        ]
    groups = []
    for module, rate in (*parts, (model.backbone, model.recipe.lr_body)):
        moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for decays in (True, False):
            parameters = [parameter for parameter in moving if (parameter.ndim > 1) == decays]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": model.recipe.weight_decay * decays})
    if model.recipe.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True)
    if model.recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)
