"""Training a recipe on one split: all members in step, an epoch each, so that the joined macro F1 exists after every epoch.

    fit = Fit(recipe, FitData.of(faces, recipe.image_size), device="cuda")
    for result in fit.epochs():
        fit.save(folder)

Search, single fits and final retraining all go through here.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maskcls.models.member import build_members, log_probabilities
from maskcls.recipe import Recipe
from maskcls.task_split import task_split
from maskcls.training import state
from maskcls.training.fit_data import FitData
from maskcls.training.member_fit import Diverged, MemberFit
from maskcls.training.metrics import Scores, scores


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave. `scores` are of the joined answer for the validation people."""

    epoch: int  # 1-based
    train_loss: float  # mean over members of the mean over photos
    validation_f1: float
    scores: Scores
    photos: int  # drawn in this epoch, all members
    seconds: float  # training and validation
    photos_per_second: float  # training alone


class Fit:
    """One fit, epoch by epoch. With the same threads and device it is a function of (recipe, data), also when killed and resumed.

    Args:
        device: torch's name, as in `cpu` or `cuda:0`.
        loader_workers: processes that augment; 0 augments in this one. Their number changes no result.
    """

    def __init__(self, recipe: Recipe, data: FitData, device: str = "cpu", loader_workers: int = 0) -> None:
        self.recipe, self.data = recipe, data
        self.split = task_split(recipe.task_split)
        self.precision = resolve_precision(recipe.precision, device)
        self.members = [member.to(device) for member in build_members(recipe, pretrained=True)]
        self.member_fits = [
            MemberFit(recipe, member, data, number, precision=self.precision, workers=loader_workers)
            for number, member in enumerate(self.members)
        ]
        self.history: list[EpochResult] = []
        self.best_epoch = 0
        self._best: list[dict[str, Tensor]] = []

    def epochs(self) -> Iterator[EpochResult]:
        """The epochs that a resumed fit has behind it, as they were, then the rest as they are done. Raises Diverged."""
        yield from list(self.history)
        while len(self.history) < self.recipe.epochs:
            yield self._next_epoch()

    def save(self, folder: Path) -> None:
        """Write all that `resume` needs and the best epoch's weights, so that a kill at any moment leaves the state of a whole epoch."""
        state.save(
            folder,
            recipe=self.recipe,
            data_digest=self.data.digest,
            history=self.history,
            best_epoch=self.best_epoch,
            best=self._best,
            members=[fit.member.moving_state() for fit in self.member_fits],
            optimizers=[fit.optimizer.state_dict() for fit in self.member_fits],
        )

    def resume(self, folder: Path) -> bool:
        """Take up a saved state; False where the folder has none. Raises RunError where it is another recipe's or damaged."""
        saved = state.load(folder, self.recipe, self.data.digest)
        if saved is None:
            return False
        for fit, member, optimizer in zip(self.member_fits, saved.members, saved.optimizers, strict=True):
            fit.member.load_moving_state(member)
            fit.optimizer.load_state_dict(optimizer)
        self.history, self.best_epoch, self._best = saved.history, saved.best_epoch, saved.best
        return True

    def best_states(self) -> list[dict[str, Tensor]]:
        """Each member's complete state at the best epoch, on the CPU."""
        return [complete_state(member.state_dict(), best) for member, best in zip(self.members, self._best, strict=True)]

    @property
    def best(self) -> EpochResult:
        """The epoch of the highest validation macro F1, the first of equals."""
        return self.history[self.best_epoch - 1]

    def _next_epoch(self) -> EpochResult:
        number = len(self.history)
        started = time.perf_counter()
        losses, photos = zip(*(fit.train_epoch(number) for fit in self.member_fits), strict=True)
        trained = time.perf_counter()
        validated = self._validate(number)
        result = EpochResult(
            epoch=number + 1,
            train_loss=float(np.mean(losses)),
            validation_f1=validated.f1,
            scores=validated,
            photos=sum(photos),
            seconds=time.perf_counter() - started,
            photos_per_second=sum(photos) / (trained - started),
        )
        self.history.append(result)
        if not self._best or result.validation_f1 > self.best.validation_f1:
            self.best_epoch = result.epoch
            self._best = [to_cpu(member.moving_state()) for member in self.members]
        return result

    def _validate(self, epoch: int) -> Scores:
        answer = log_probabilities(self.members, self.split, self.data.pixels, self.data.validation)
        if not np.isfinite(answer).all():
            raise Diverged(f"Probabilities are not finite after epoch {epoch + 1}. A lower learning rate may help.")
        return scores(self.data.labels[self.data.validation], answer.argmax(1))


def resolve_precision(precision: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it, else float32."""
    if precision == "auto":
        return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def complete_state(whole: dict[str, Tensor], moving: dict[str, Tensor]) -> dict[str, Tensor]:
    """A member's state with its moving part replaced, on the CPU."""
    return to_cpu({**whole, **moving})


def to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, each in its own contiguous memory."""
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
