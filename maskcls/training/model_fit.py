"""One model's side of a fit: its optimizer, its schedule, its losses, and one epoch of steps.

Shapes: b photos in a batch, p in a part of it that goes through the model at once (a micro-batch), k labels of a task,
s the edge of the square that the model sees in px. Positions count the photos trained on, rows those of the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from maskcls.data.sampling import DrawStream
from maskcls.errors import Diverged, RunError
from maskcls.models.model import Model
from maskcls.models.prefix import Prefix
from maskcls.recipe import Recipe
from maskcls.seeds import torch_seed
from maskcls.stores.features import FeatureStores
from maskcls.tasks import task
from maskcls.training.batch_norm import normalises_single_values, refusal
from maskcls.training.batches import Batch, Batches, FeatureBatches, ViewBatches, ViewLoader
from maskcls.training.fit_data import FitData, TrainingPhotos
from maskcls.training.frozen import (
    CacheDecision,
    FrozenStages,
    NotCached,
    cache_for_training,
    cache_for_validation,
)
from maskcls.training.head_loss import EpochLoss, HeadLoss, batch_loss
from maskcls.training.mixing import mix

LOSS_CHECK_STEPS = 50
"""Steps between two looks at the loss, each of which makes the host wait for the device."""
MIX_STREAM = 1
"""A part of the seed that mixes batches, so that it differs from the seed of dropout for the same numbers."""


class ModelFit:
    """Trains one model, one epoch at a time. All that is random in an epoch comes from (seed, model, epoch).

    The sampler balances the labels of the model's task; for a shared backbone, whose heads see the same batches, the 18
    classes.

    A model draws from the photos that have a label for one of its heads, and its epoch is as many draws as those are,
    or fewer where the recipe says so (`epoch_photos`). The alternative, drawing from all photos and leaving those
    without a label out of the loss, is taken only where it must be, between heads that share batches. It would leave
    batches of a model with few labels or none, and so steps of much noise at the full learning rate; or, in an epoch of
    as many labelled draws as there are photos of any kind, a model with few labels would go through its photos many
    times as often as the others do, and overfit.

    Args:
        recipe: the fit's, from which the heads take their members' values; the rest follows the model's own recipe.
        number: of the model in the task split, from 0; a part of its seeds.
        precision: float32, or bfloat16 for autocast in training. Validation is always in float32.
        loader: makes augmented views for this model and the fit's others.
        stores: where features from frozen stages are cached; None: they are computed whenever they are needed.
        micro_batch: how many photos go through the model at once at most; 0: a whole batch.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        data: FitData,
        number: int,
        *,
        precision: torch.dtype,
        loader: ViewLoader,
        stores: FeatureStores | None = None,
        micro_batch: int = 0,
    ) -> None:
        self.model, self.number, self.precision, self.micro_batch = model, number, precision, micro_batch
        self.recipe = model.recipe
        self.device = model.mean.device
        photos = TrainingPhotos.of(self.recipe, model.tasks, data)
        # The sampler draws by one labelling of the photos.
        drawn = model.tasks[0] if len(model.tasks) == 1 else task("classes")
        labels, epoch_photos = photos.labels(drawn), recipe.drawn_of(len(photos.rows))
        draws = DrawStream(labels, drawn.n_labels, self.recipe.sampler, self.recipe.seed, number, epoch_photos)
        prefix = Prefix.of(model.backbone, self.recipe.image_size)
        self.frozen = None if prefix is None else FrozenStages(model, prefix, data, micro_batch)
        in_loader = loader.add(self.recipe, data)
        make = partial(loader.made, in_loader)
        self.training_cache = cache_for_training(self.frozen, stores, self.recipe, precision, draws, make)
        self.validation_cache = cache_for_validation(self.frozen, stores, self.recipe, self.training_cache)
        cached, pin = self.training_cache.features, self.device.type == "cuda"
        self.batches: Batches = (
            ViewBatches(self.recipe, photos.rows, draws, loader, in_loader, pin=pin)
            if cached is None
            else FeatureBatches(self.recipe, photos.rows, draws, cached, pin=pin)
        )
        self.head_losses = [HeadLoss(recipe.of_member(t.name), t, photos).to(self.device) for t in model.tasks]
        # A backbone with a frozen prefix runs in two parts, which are not compiled.
        self._backbone = (
            torch.compile(model.backbone) if self.recipe.compile and self.frozen is None else model.backbone
        )
        self._fit_recipe = recipe
        self._single_values: bool | None = None  # of `_normalises_single_values`; None: not found out yet
        self.optimizer = create_optimizer(recipe, model)
        self.waited_s = 0.0
        """How long the last epoch waited for its batches."""
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = (
            ModelEmaV3(model, decay=self.recipe.ema_decay, use_warmup=True) if self.recipe.ema_decay else None
        )

    @property
    def eval_model(self) -> Model:
        """The model that is evaluated and kept: `model`, or the moving average of its weights if the recipe wants it.

        The average is exponential, with a warm-up of its decay: 1 - step^(-2/3) until that exceeds `ema_decay` (timm's
        ModelEmaV3). Averaging iterates: Polyak and Juditsky, SIAM J. Control Optim. 30(4), 1992.
        """
        if self.average is None:
            return self.model
        averaged: Model = self.average.module
        return averaged

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Load the optimizer's state from a checkpoint.

        A fit that was begun when the weights that timm exempts still decayed goes on as it began.
        """
        sizes = [len(group["params"]) for group in state["param_groups"]]
        if sizes != [len(group["params"]) for group in self.optimizer.param_groups]:
            self.optimizer = create_optimizer(self._fit_recipe, self.model, exempts=False)
        self.optimizer.load_state_dict(state)

    def train_epoch(self, epoch: int) -> tuple[float, int]:
        """Train one epoch (0-based); returns the mean loss of its photos (`EpochLoss`), and their number.

        Raises Diverged where the loss is not finite.
        """
        torch.manual_seed(torch_seed(self.recipe.seed, self.number, epoch))  # dropout and drop-path draw from it
        self.model.train()
        loss = EpochLoss(self.head_losses)
        self.waited_s = 0.0
        batches = self._timed(self.batches.epoch(epoch))
        for step, (inputs, positions) in enumerate(batches, start=epoch * self.batches.steps):
            self._set_rates(step)
            loss.add(self._step(inputs, positions, step), positions)
            if (step + 1) % LOSS_CHECK_STEPS == 0:
                self._check(loss, epoch)
        self._check(loss, epoch)
        return loss.mean, loss.photos

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and add the time that each is waited for to `waited_s`."""
        began = perf_counter()
        for batch in batches:
            self.waited_s += perf_counter() - began
            yield batch
            began = perf_counter()

    def step(self, inputs: Tensor, positions: Tensor, number: int = 0) -> Tensor:
        """Take training step `number` of the fit on one batch; returns the batch's loss, a scalar.

        The batch goes through the model in equal parts of at most `micro_batch` photos, or of two and three where a
        single photo cannot be normalised. Their gradients add up to those
        of the whole batch, up to rounding: the losses divide by the whole batch (`training.losses`), and photos are
        mixed across all of it. Three things depend on the part alone: the statistics that BatchNorm normalises by,
        soft F1, and which units dropout drops.

        Args:
            inputs: (b, s, s, 3) uint8 pixels, or cached features (b, ...), as `batches` gives them.
            positions: (b,) int64.
            number: counted over the whole fit, from 0; seeds the mixing.
        """
        return batch_loss(self._step(inputs, positions, number))

    def _step(self, inputs: Tensor, positions: Tensor, number: int) -> Tensor:
        """Take the step; returns what each part adds to each head's loss of the batch, (parts, heads)."""
        inputs, positions = inputs.to(self.device, non_blocking=True), positions.to(self.device, non_blocking=True)
        with self._autocast():
            inputs, shares = self._mixed(inputs, number)
        self.optimizer.zero_grad(set_to_none=True)
        of_parts = []
        for part in self._parts(inputs):
            with self._autocast():
                features = self._features(inputs[part])  # (p, n_features)
                logits, ages = self.model.logits(features), self.model.ages(features)
            heads = zip(self.head_losses, logits, ages, strict=True)  # a loss, logits (p, k), and ages (p,) or None
            losses = torch.stack([head_loss(*outputs, positions, shares, part) for head_loss, *outputs in heads])
            losses.sum().backward()  # type: ignore[no-untyped-call]  # parts' gradients accumulate in .grad
            of_parts.append(losses.detach())
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, step=number + 1)  # its warm-up counts steps from 1
        return torch.stack(of_parts)

    def _parts(self, inputs: Tensor) -> list[slice]:
        """The batch's parts; none of a single photo where BatchNorm would have one value to take statistics of."""
        cut = parts(len(inputs), self.micro_batch)
        if all(part.stop - part.start > 1 for part in cut) or not self._normalises_single_values(inputs):
            return cut
        if len(inputs) == 1:
            raise RunError(refusal(self.recipe))
        return parts(len(inputs), self.micro_batch, least=2)

    def _normalises_single_values(self, inputs: Tensor) -> bool:
        """Whether a BatchNorm that is trained sees maps of 1 x 1: found out once, on one photo in eval()."""
        if self._single_values is None:

            def run() -> object:
                with self._autocast():
                    # Not through the compiled backbone, which does not call the hooks of its parts.
                    return self.model.backbone(inputs[:1]) if self.frozen is None else self._features(inputs[:1])

            self._single_values = normalises_single_values(self.model, run)
        return self._single_values

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def _mixed(self, inputs: Tensor, number: int) -> tuple[Tensor, Tensor | None]:
        """The model's input, images (b, 3, s, s) or cached features (b, ...), and the shares (b, b) if it was mixed."""
        if self.training_cache.features is not None:
            return inputs, None
        images = self.model.normalise(inputs)  # (b, 3, s, s)
        return images, mix(images, self.recipe, torch_seed(self.recipe.seed, self.number, number, MIX_STREAM))

    def _features(self, inputs: Tensor) -> Tensor:
        """The backbone's features (p, n_features) for a part of the images or cached features that `_mixed` gave."""
        if self.frozen is None:
            return self._backbone(inputs)  # type: ignore[no-any-return]
        if self.training_cache.features is None:
            # On the CPU in the stores' blocks, so that live and cached features agree to the bit.
            block = self.frozen.block if self.device.type == "cpu" else len(inputs)
            inputs = self.frozen.of_images(inputs, self.precision, block)
        return self.frozen.prefix.rest(inputs)

    def validation_features(self, rows: NDArray[np.int64]) -> Tensor:
        """Features (m, ...) at the cut for rows (m,) of the data, unaugmented, float32, on the model's device.

        Only for a model with frozen stages.
        """
        cached = self.validation_cache.features
        if cached is None:
            assert self.frozen is not None
            # On the CPU in the stores' blocks, so that live and cached features agree to the bit.
            block = self.frozen.block if self.device.type == "cpu" else min(self.frozen.block, len(rows))
            return self.frozen.compute(rows, torch.float32, block=block)
        return cached.of(rows).to(self.device)

    def validate_in_blocks_of(self, photos: int) -> None:
        """Give up cached features of validation photos if they are computed in larger blocks: memory is short."""
        if self.frozen is not None and photos < self.frozen.block:
            self.validation_cache = CacheDecision(None, NotCached.MEMORY_SHORT)

    @property
    def frozen_features(self) -> str:
        """`kept`, or why frozen features are not cached: for the training views, and for validation if that differs."""
        training, validation = self.training_cache.status, self.validation_cache.status
        return training if training == validation else f"{training}; for validation: {validation}"

    @property
    def cache_trouble(self) -> str:
        """What is wrong with the cache that should hold frozen features; "" where nothing is."""
        return self.training_cache.problem or self.validation_cache.problem

    def _set_rates(self, step: int) -> None:
        factor = rate_factor(self.recipe, step / self.batches.steps)  # by step, not by epoch
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def _check(self, loss: EpochLoss, epoch: int) -> None:
        if not math.isfinite(loss.total):
            name = " and ".join(t.name for t in self.model.tasks)
            raise Diverged(f"The loss of {name} is not finite in epoch {epoch + 1}. A lower learning rate may help.")


def parts(n: int, most: int, least: int = 1) -> list[slice]:
    """Cut n photos into the fewest parts of at most `most`, whose sizes differ by one at most; 0: one part.

    Where that would make parts of fewer than `least`, there are fewer parts, which may exceed `most`.
    """
    count = -(-n // most) if most else 1  # rounded up
    count = max(1, min(count, n // least))
    ends = [n * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def rate_factor(recipe: Recipe, epochs: float) -> float:
    """The factor, in 0..1, of the learning rates after so many epochs: linear warm-up, then constant or cosine to zero.

    Cosine without restarts: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5. Warm-up: Goyal et al., "Accurate,
    Large Minibatch SGD", 2017, section 2.2.

    Args:
        epochs: trained so far, with fractions.
    """
    if epochs < recipe.warmup_epochs:
        return epochs / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return 1.0
    share = (epochs - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def create_optimizer(recipe: Recipe, model: Model, *, exempts: bool = True) -> torch.optim.Optimizer:
    """Create the optimizer of the trainable parameters: the backbone at `lr_body`, each head at its member's `lr_head`.

    Weights decay; biases, the parameters of norms, which have one dimension, and what the network itself exempts, such
    as a transformer's position embedding, do not: as timm's `param_groups_weight_decay` has it. AdamW: Loshchilov and
    Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Args:
        recipe: the fit's, from which members' own rates are taken.
        exempts: whether what the network exempts does not decay. It did once, and a fit of that time goes on so.
    """
    exempt = set(map(id, model.backbone.exempt_from_decay())) if exempts else set()
    parts: list[tuple[nn.Module, float]] = []
    for name, head in model.heads.items():
        rate = recipe.of_member(name).lr_head
        parts += [(head, rate)] + [
            (regression, rate) for regressed, regression in model.age_heads.items() if regressed == name
        ]
    groups = []
    for module, rate in (*parts, (model.backbone, model.recipe.lr_body)):
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for decays in (True, False):
            parameters = [
                parameter for parameter in trainable if (parameter.ndim > 1 and id(parameter) not in exempt) == decays
            ]
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": model.recipe.weight_decay * decays})
    if model.recipe.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True)
    if model.recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)
