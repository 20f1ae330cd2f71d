"""Model: one backbone and the heads of one or more tasks, from uint8 pixels to logits.

Normalisation is inside, so that it cannot differ between places.

Shapes: b photos in a batch, n rows in all, s the edge of the square that the model sees in px, k labels of a task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskcls.machine import matrix_precision
from maskcls.models.backbones import create_backbone, normalisation
from maskcls.models.heads import create_head
from maskcls.models.weights import NONE
from maskcls.recipe import Recipe
from maskcls.seeds import torch_seed
from maskcls.task_split import TaskSplit
from maskcls.tasks import Task

BLOCK = 64
"""Photos per forward pass outside training. A convolution's last bits depend on the batch size, so it never varies."""

RowFeatures = Callable[[NDArray[np.int64]], Tensor]
"""Rows (b,) of an array of pixels -> their features (b, n_features) behind the backbone."""

MemberLogProbs = list[NDArray[np.float64]]
"""For each member of a split, in its order, (n, k) log probabilities."""


class Model(nn.Module):
    """A backbone, a head for each of its tasks, and the mean and std of the backbone's weights.

    Args:
        recipe: the fit's; each head, and the backbone where it serves one task alone, takes its member's own values.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, tasks: Sequence[Task], *, pretrained: bool) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.recipe = recipe.of_model(tasks)
        self.backbone = create_backbone(
            self.recipe.backbone,
            weights=self.recipe.weights if pretrained else NONE,
            frozen_stages=self.recipe.frozen_stages,
            image_size=self.recipe.image_size,
        )
        own = {task.name: recipe.of_member(task.name) for task in tasks}
        self.heads = nn.ModuleDict({task.name: self._head(own[task.name], task.n_labels) for task in tasks})
        regressed = [task.name for task in tasks if own[task.name].age_regression and task.depends_on_age]
        self.age_heads = nn.ModuleDict({name: nn.Linear(self.backbone.n_features, 1) for name in regressed})
        mean, std = normalisation(self.recipe.backbone)
        # (1, 3, 1, 1), on the scale of uint8 pixels; buffers, so that they travel with the state and to the device
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))
        self.to(memory_format=torch.channels_last)  # the layout of the pixels, so that nothing is transposed

    def _head(self, own: Recipe, n_labels: int) -> nn.Module:
        return create_head(own.head, self.backbone.n_features, n_labels, width=own.head_width, dropout=own.head_dropout)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """uint8 RGB pixels (b, s, s, 3) -> the logits (b, k) of each task."""
        return self.logits(self.backbone(self.normalise(pixels)))

    def logits(self, features: Tensor) -> list[Tensor]:
        """The backbone's features (b, n_features) -> the logits (b, k) of each task."""
        return [head(features) for head in self.heads.values()]

    def ages(self, features: Tensor) -> list[Tensor | None]:
        """For each task its regression of the age, (b,) on the scale of `losses.age_loss`, or None; for training."""
        return [
            self.age_heads[task.name](features)[:, 0] if task.name in self.age_heads else None for task in self.tasks
        ]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 RGB pixels (b, s, s, 3) -> what the backbone sees, float32 (b, 3, s, s) in channels_last memory."""
        # permute changes strides, not memory: (b, s, s, 3) contiguous is (b, 3, s, s) in channels_last
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std

    def trainable_state(self) -> dict[str, Tensor]:
        """Tensors that training can change: parameters and buffers of the heads and of stages that are not frozen."""
        return {name: tensor for name, tensor in self.state_dict().items() if self._is_trainable(name)}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Load what `trainable_state` gave. Raises KeyError where it is another model's."""
        expected = {name for name in self.state_dict() if self._is_trainable(name)}
        if expected != state.keys():
            raise KeyError(f"The state is of another model: {sorted(expected ^ state.keys())[:3]} differ.")
        self.load_state_dict(state, strict=False)  # not strict: frozen stages, mean and std are not in it

    def _is_trainable(self, name: str) -> bool:
        prefix = "backbone.model."  # `Backbone.model` is the timm model, whose names `stage_of` takes
        return name.startswith(("heads.", "age_heads.")) or (
            name.startswith(prefix) and self.backbone.stage_of(name.removeprefix(prefix)) > self.backbone.frozen_stages
        )


def build_models(recipe: Recipe, *, pretrained: bool) -> list[Model]:
    """The models of the recipe's task split, each initialised from (seed, model) alone.

    Args:
        pretrained: whether to load the recipe's weights; False where a state is loaded afterwards.
    """
    models = []
    for number, tasks in enumerate(recipe.split.models):
        # No devices: models are built on the CPU, whose generator alone is drawn from.
        with torch.random.fork_rng(devices=[]):  # the caller's generator goes on as if nothing had been drawn
            torch.manual_seed(torch_seed(recipe.seed, number))
            models.append(Model(recipe, tasks, pretrained=pretrained))
    return models


def log_probabilities(
    models: Sequence[Model],
    split: TaskSplit,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64] | None = None,
    *,
    join: str = "soft",
    flip: bool = False,
    block_photos: int = BLOCK,
) -> NDArray[np.float64]:
    """`member_log_probs`, joined by the split's rule `join`: (n, 18) log probabilities."""
    return split.join(member_log_probs(models, pixels, rows, flip=flip, block_photos=block_photos), join)


def member_log_probs(
    models: Sequence[Model],
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64] | None = None,
    *,
    flip: bool = False,
    block_photos: int = BLOCK,
    features: Sequence[RowFeatures | None] = (),
) -> MemberLogProbs:
    """Each member's log probabilities (n, k) for the photos `rows` (n,), by default all, of `pixels` (photos, s, s, 3).

    Runs in eval() and float32, whatever the precision of training, in padded blocks of one size. So a photo's
    prediction depends neither on its neighbours nor on their number; another `block_photos` may change the last bits.
    On a GPU, what is multiplied is rounded to TF32, in matrices as in convolutions. Not bfloat16: a bundle must give
    on any machine what it was chosen by (docs/performance.md).

    Args:
        flip: predict the mean of a photo's and its mirror image's probabilities.
        features: for each model, how to get its backbone's features other than from the pixels, or None. Not with
            `flip`.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    log_probs = [np.empty((len(rows), task.n_labels)) for model in models for task in model.tasks]  # members x (n, k)
    for model in models:
        model.eval()
    device = models[0].mean.device
    for start in range(0, len(rows), block_photos):
        here = rows[start : start + block_photos]  # (n,), fewer than block_photos only at the end
        n = len(here)
        padded = np.concatenate([here, np.full(block_photos - n, here[-1])])  # (block_photos,)
        # Pixels (block_photos, s, s, 3) are read only where a model takes them.
        batch = torch.from_numpy(pixels[padded]).to(device) if not features or None in features else torch.empty(0)
        of_block = [
            member
            for model, of_rows in zip(models, features or [None] * len(models), strict=True)
            for member in _block_log_probs(model, batch, flip, of_rows and functools.partial(of_rows, padded))
        ]
        for member, block in zip(log_probs, of_block, strict=True):
            member[start : start + n] = block[:n]  # without the padding
    return log_probs


def _block_log_probs(model: Model, batch: Tensor, flip: bool, features: Callable[[], Tensor] | None) -> MemberLogProbs:
    """For each task of the model, log probabilities (b, k) of a block of pixels (b, s, s, 3), or of its features."""
    with torch.inference_mode(), matrix_precision():
        logits = model(batch) if features is None else model.logits(features())
        log_probs = [each.double().log_softmax(1) for each in logits]  # in float64: joins add them up
        if flip:
            mirrored = [each.double().log_softmax(1) for each in model(batch.flip(2))]  # dim 2 is the width
            # The logarithm of the mean of two probabilities, (b, k).
            log_probs = [torch.logaddexp(*pair) - np.log(2) for pair in zip(log_probs, mirrored, strict=True)]
    return [each.cpu().numpy() for each in log_probs]
