"""Member: the model of one task, from uint8 pixels to logits. Normalisation is inside, so that it cannot differ between places."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maskcls.models.backbones import create_backbone, normalisation
from maskcls.models.heads import create_head
from maskcls.models.weights import NONE
from maskcls.recipe import Recipe
from maskcls.task_split import TaskSplit, task_split
from maskcls.tasks import Task

BLOCK = 64
"""Photos of one forward pass outside training. A convolution's last bits hang on the batch size, so it never varies."""


class Member(nn.Module):
    """Backbone and head of one task, with the mean and std of the backbone's weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, task: Task, *, pretrained: bool) -> None:
        super().__init__()
        self.task = task
        self.backbone = create_backbone(
            recipe.backbone,
            weights=recipe.weights if pretrained else NONE,
            frozen_stages=recipe.frozen_stages,
            image_size=recipe.image_size,
        )
        self.head = create_head(recipe.head, self.backbone.n_features, task.n_labels, width=recipe.head_width, dropout=recipe.head_dropout)
        mean, std = normalisation(recipe.backbone)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))
        self.to(memory_format=torch.channels_last)  # as the pixels lie

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 RGB pixels (b, s, s, 3) -> logits (b, k)."""
        logits: Tensor = self.head(self.backbone(self.normalise(pixels)))
        return logits

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 RGB pixels (b, s, s, 3) -> what the backbone sees, float32 (b, 3, s, s) in channels_last memory."""
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std

    def moving_state(self) -> dict[str, Tensor]:
        """The tensors that training can change: the head's, and parameters and buffers of the stages that are not frozen."""
        return {name: tensor for name, tensor in self.state_dict().items() if self._moves(name)}

    def load_moving_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `moving_state` gave. Raises KeyError where it is another model's."""
        expected = {name for name in self.state_dict() if self._moves(name)}
        if expected != state.keys():
            raise KeyError(f"The state is of another model: {sorted(expected ^ state.keys())[:3]} differ.")
        self.load_state_dict(state, strict=False)

    def _moves(self, name: str) -> bool:
        prefix = "backbone.model."
        return name.startswith("head.") or (
            name.startswith(prefix) and self.backbone.stage_of(name.removeprefix(prefix)) > self.backbone.frozen_stages
        )


def build_members(recipe: Recipe, *, pretrained: bool) -> list[Member]:
    """A member for each task of the recipe's split, initialised from (seed, member) whatever was drawn before.

    Args:
        pretrained: whether to load the recipe's weights; False where a state is loaded afterwards.
    """
    members = []
    for number, task in enumerate(task_split(recipe.task_split).tasks):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(recipe.seed, number))
            members.append(Member(recipe, task, pretrained=pretrained))
    return members


def derived_seed(*parts: int) -> int:
    """A seed for torch from several numbers, well mixed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def log_probabilities(
    members: Sequence[Member],
    split: TaskSplit,
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64] | None = None,
    *,
    block_photos: int = BLOCK,
) -> NDArray[np.float64]:
    """The classifier's joined answer, (n, 18), for the photos `rows` (default: all) of `pixels` (photos, s, s, 3).

    Runs in eval() and float32, whatever training's precision, in padded blocks of one size, so that a photo's answer does not
    hang on its neighbours or their number; another `block_photos` may change the last bits.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    answers = [np.empty((len(rows), member.task.n_labels)) for member in members]
    for member in members:
        member.eval()
    device = members[0].mean.device
    for start in range(0, len(rows), block_photos):
        block = pixels[rows[start : start + block_photos]]
        n = len(block)
        padded = np.concatenate([block, np.zeros((block_photos - n, *block.shape[1:]), np.uint8)]) if n < block_photos else block
        batch = torch.from_numpy(padded).to(device)
        for member, answer in zip(members, answers, strict=True):
            answer[start : start + n] = _block_log_probabilities(member, batch)[:n]
    return split.join(answers)


def _block_log_probabilities(member: Member, batch: Tensor) -> NDArray[np.float64]:
    with torch.inference_mode():
        logits = member(batch)
    answer: NDArray[np.float64] = logits.double().log_softmax(1).cpu().numpy()
    return answer
