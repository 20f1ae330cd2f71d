"""Training a recipe on one split: all models in step, so that the joined macro F1 exists after every epoch.

    fit = Fit(recipe, FitData.of(dataset, recipe), device="cuda")
    for result in fit.epochs(folder):
        print(result.epoch, result.validation_f1)

Trials, repeats, comparisons, single fits and the last fit on all people all go through `Fit.epochs`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskcls import machine
from maskcls.errors import Damaged, Diverged, OutOfMemory, is_out_of_memory
from maskcls.models.model import BLOCK, Model, RowFeatures, build_models, log_probabilities, member_log_probs
from maskcls.models.precision import resolve_precision
from maskcls.models.weights import not_finite
from maskcls.recipe import Recipe
from maskcls.stores.features import FeatureStores
from maskcls.training import checkpoint as state
from maskcls.training.batches import ViewLoader
from maskcls.training.conditions import Conditions, note
from maskcls.training.fit_data import FitData
from maskcls.training.metrics import UNSCORED, Scores, scores
from maskcls.training.model_fit import ModelFit
from maskcls.training.result import EpochResult
from maskcls.training.savings import Savings

_Evaluated = TypeVar("_Evaluated")
log = logging.getLogger("maskcls")


class Fit:
    """One fit, epoch by epoch: with the same threads and device a function of (recipe, data), also when resumed.

    From its first fit on the process keeps the memory that it frees, until `machine.give_back_memory`.

    Without validation people nothing says which epoch is best: then the latest one counts as the best. Validation
    photos that lack a label are predicted as the others are, and not scored.

    Args:
        device: torch's name, as in `cpu` or `cuda:0`.
        loader_workers: processes that augment, for all models together; 0 augments in this one. Their number changes
            no result.
        stores: where frozen features are cached; on the CPU in float32 the curve is the same with and without.
        micro_batch: photos that go through a model at once at most; 0: a whole batch. See `ModelFit.step`.
        validation_block: photos that go through a model at once in validation; 0: `models.model.BLOCK`. Where memory
            runs out in validation, it is halved, and the training stays as it is.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: FitData,
        device: str = "cpu",
        loader_workers: int = 0,
        *,
        stores: FeatureStores | None = None,
        micro_batch: int = 0,
        validation_block: int = 0,
    ) -> None:
        machine.keep_freed_memory()
        self.recipe, self.data, self.device = recipe, data, device
        self.loader_workers, self.micro_batch = loader_workers, micro_batch
        self.validation_block = validation_block or BLOCK
        self.models = [model.to(device) for model in build_models(recipe, pretrained=True)]
        loader = ViewLoader(loader_workers, pin=device.startswith("cuda"))
        self.model_fits = [
            ModelFit(
                recipe,
                model,
                data,
                number,
                precision=resolve_precision(recipe.precision, device, model.backbone),
                loader=loader,
                stores=stores,
                micro_batch=micro_batch,
            )
            for number, model in enumerate(self.models)
        ]
        self.history: list[EpochResult] = []
        caches = [cache for fit in self.model_fits for cache in (fit.training_cache, fit.validation_cache)]
        self.savings = Savings(self.data, [cache.features for cache in caches])
        self.waited_share = 0.0
        """Of the last epoch's training time, how much was waiting for data, 0 to 1."""
        self.resumed_epochs = 0
        """How many epochs were read from a checkpoint."""
        self.restarted = ""
        """Why the fit was begun again although it had a checkpoint; "" where it was not."""
        self.best_epoch = 0
        self._best: list[dict[str, Tensor]] = []
        self._best_log_probs: NDArray[np.float64] | None = None
        """(n, 18) of the best epoch for the validation photos; None without them, or where an earlier version saved."""

    def epochs(
        self,
        folder: Path | None = None,
        *,
        last: int | None = None,
        before_saving: Callable[[Fit, EpochResult, bool], None] | None = None,
    ) -> Iterator[EpochResult]:
        """Yield every epoch once: first those that are done already, as they were, then each new one.

        Args:
            folder: holds the fit's checkpoint. The fit resumes from there, records there the conditions that it runs
                under (`training.conditions`), and saves each new epoch there before it yields it. None keeps nothing.
            last: the epoch to stop after, 1-based; None: the recipe's last.
            before_saving: called with the fit, each result, and whether its epoch is new, before it is saved as done.

        Raises:
            Diverged: a loss or a probability is not finite.
            RunError: the checkpoint is another fit's. One that is damaged is set aside, and the fit begins again.
        """
        if folder is not None:
            self.resume(folder)
            note(folder, self.conditions, done=len(self.history), epochs=last or self.recipe.epochs)
        for result in list(self.history):
            if before_saving is not None:
                before_saving(self, result, False)
            yield result
        while len(self.history) < (last or self.recipe.epochs):
            block = self.validation_block
            result = self._next_epoch()
            if folder is not None and self.validation_block != block:
                note(folder, self.conditions, done=len(self.history) - 1, epochs=last or self.recipe.epochs)
            if before_saving is not None:
                before_saving(self, result, True)
            if folder is not None:
                self.save(folder)
            yield result

    @property
    def conditions(self) -> Conditions:
        """What the numbers of the next epoch depend on besides recipe and data."""
        return Conditions.now(
            self.recipe,
            self.data.digest,
            device=self.device,
            threads=torch.get_num_threads(),
            loader_workers=self.loader_workers,
            micro_batch=self.micro_batch,
            validation_block=0 if self.validation_block == BLOCK else self.validation_block,
        )

    def notes(self) -> dict[str, Any]:
        """What an epoch's row says besides numbers: whether frozen features are cached, and the cache's problem."""
        message = "; ".join(filter(None, (self.restarted, self.cache_trouble)))
        return (
            {"frozen_features": self.frozen_features, "wait_share": self.waited_share}
            | self.savings.of_epoch
            | ({"message": message} if message else {})
        )

    def save(self, folder: Path) -> None:
        """Write what `resume` needs and the best epoch's weights; a kill at any moment leaves a whole checkpoint.

        After the recipe's last epoch no optimizer is needed any more, and it would be most of the checkpoint.
        """
        is_over = len(self.history) >= self.recipe.epochs
        state.save(
            folder,
            recipe=self.recipe,
            data_digest=self.data.digest,
            history=self.history,
            best_epoch=self.best_epoch,
            best=self._best,
            best_log_probs=self._best_log_probs,
            models=[fit.model.trainable_state() for fit in self.model_fits],
            averages=[fit.eval_model.trainable_state() for fit in self.model_fits if fit.average is not None],
            optimizers=[] if is_over else [fit.optimizer.state_dict() for fit in self.model_fits],
        )

    def resume(self, folder: Path) -> bool:
        """Load the folder's checkpoint; False if it has none, or a damaged one, which is set aside.

        Raises:
            RunError: it is another fit's.
            OutOfMemory: the device has no room for it. Smaller batches would not change that.
        """
        try:
            return self._resume(folder)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"The checkpoint in {folder} does not fit into the memory. {error}") from error

    def _resume(self, folder: Path) -> bool:
        try:
            saved = state.load(folder, self.recipe, self.data.digest)
        except Damaged as error:
            self.restarted = state.begin_again(folder, error)
            log.warning("The fit in %s is %s", folder, self.restarted)
            return False
        if saved is None:
            return False
        for fit, model in zip(self.model_fits, saved.models, strict=True):
            fit.model.load_trainable_state(model)
        if len(saved.history) < self.recipe.epochs:
            for fit, optimizer in zip(self.model_fits, saved.optimizers, strict=True):
                fit.load_optimizer(optimizer)
        averaged = [fit for fit in self.model_fits if fit.average is not None]
        for fit, average in zip(averaged, saved.averages, strict=True):
            fit.eval_model.load_trainable_state(average)
        self.history, self.best_epoch, self._best = saved.history, saved.best_epoch, saved.best
        self._best_log_probs = saved.best_log_probs
        self.resumed_epochs = len(saved.history)
        return True

    def best_states(self) -> list[dict[str, Tensor]]:
        """Each model's complete state at the best epoch, frozen stages included, on the CPU."""
        return [complete_state(model.state_dict(), best) for model, best in zip(self.models, self._best, strict=True)]

    def log_probs(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log probabilities (n, 18) that the best epoch's weights give rows (n,) of the data."""
        if self._best_log_probs is not None and np.array_equal(rows, self.data.validation):
            return self._best_log_probs  # computed when that epoch was scored
        with self.at_best() as models:
            return self._in_blocks_that_fit(
                lambda block: log_probabilities(
                    models, self.recipe.split, self.data.pixels, rows, join=self.recipe.join, block_photos=block
                )
            )

    @contextmanager
    def at_best(self) -> Iterator[list[Model]]:
        """The models with the best epoch's weights inside the block; after it they have their latest weights again."""
        models = self.eval_models
        now = [to_cpu(model.trainable_state()) for model in models]
        for model, best in zip(models, self._best, strict=True):
            model.load_trainable_state(best)
        try:
            yield models
        finally:
            for model, state_ in zip(models, now, strict=True):
                model.load_trainable_state(state_)

    @property
    def eval_models(self) -> list[Model]:
        """The models that are validated and kept: each model, or the moving average of its weights."""
        return [fit.eval_model for fit in self.model_fits]

    @property
    def frozen_features(self) -> str:
        """`kept`, or why frozen features are not cached; each of the models' reasons once."""
        return "; ".join(dict.fromkeys(fit.frozen_features for fit in self.model_fits))

    @property
    def cache_trouble(self) -> str:
        """What is wrong with the cache that should hold frozen features; "" where nothing is."""
        return next((fit.cache_trouble for fit in self.model_fits if fit.cache_trouble), "")

    @property
    def best(self) -> EpochResult:
        """The epoch of the highest validation macro F1, the first of equals; without validation people the latest."""
        return self.history[self.best_epoch - 1]

    def _next_epoch(self) -> EpochResult:
        number = len(self.history)
        started = time.perf_counter()
        # One epoch of each model in turn, so that the joined prediction of this epoch exists.
        losses, photos = zip(*(fit.train_epoch(number) for fit in self.model_fits), strict=True)
        trained = time.perf_counter()  # the losses are read, so a GPU has finished
        log_probs = self._validate(number) if self.data.is_scored else None
        validated = UNSCORED if log_probs is None else self._scored(log_probs)
        self._check_weights(number)
        result = EpochResult(
            epoch=number + 1,
            train_loss=float(np.mean(losses)),
            validation_f1=validated.f1,
            scores=validated,
            photos=sum(photos),
            seconds=time.perf_counter() - started,
            photos_per_second=sum(photos) / (trained - started),
        )
        self.waited_share = sum(fit.waited_s for fit in self.model_fits) / (trained - started)
        self.savings.note_epoch(result.photos)
        self.history.append(result)
        if not self.data.is_scored or not self._best or result.validation_f1 > self.best.validation_f1:
            self.best_epoch = result.epoch
            self._best = [to_cpu(model.trainable_state()) for model in self.eval_models]
            self._best_log_probs = log_probs
        return result

    def _validate(self, epoch: int) -> NDArray[np.float64]:
        """Log probabilities (n, 18) of the validation photos after an epoch, counted from 0."""
        log_probs = self._in_blocks_that_fit(  # members x (n, k)
            lambda block: member_log_probs(
                self.eval_models,
                self.data.pixels,
                self.data.validation,
                features=[_eval_features(fit) for fit in self.model_fits],
                block_photos=block,
            )
        )
        if not all(np.isfinite(member).all() for member in log_probs):
            raise Diverged(f"Probabilities are not finite after epoch {epoch + 1}. A lower learning rate may help.")
        return self.recipe.split.join(log_probs, self.recipe.join)

    def _scored(self, log_probs: NDArray[np.float64]) -> Scores:
        return scores(self.data.labels[self.data.validation], log_probs.argmax(1))

    def _check_weights(self, epoch: int) -> None:
        """Raise Diverged where a weight or a moving average is not finite, which no score need say."""
        for fit in self.model_fits:
            for model in dict.fromkeys((fit.model, fit.eval_model)):  # one and the same without a moving average
                name = not_finite(model.trainable_state())
                if name:
                    raise Diverged(f"{name} is not finite after epoch {epoch + 1}. A lower learning rate may help.")

    def _in_blocks_that_fit(self, evaluate: Callable[[int], _Evaluated]) -> _Evaluated:
        """Evaluate in blocks of `validation_block` photos, or half of it, and so on, until the memory suffices.

        Raises OutOfMemory where not even single photos fit.
        """
        while True:
            try:
                return evaluate(self.validation_block)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self.validation_block == 1:
                    raise OutOfMemory(f"Not even one photo at a time fits in validation. {error}") from error
                traceback.clear_frames(error.__traceback__)  # they keep what did not suffice
            machine.give_back_memory()
            self.validation_block = -(-self.validation_block // 2)
            for fit in self.model_fits:
                fit.validate_in_blocks_of(self.validation_block)


def _eval_features(fit: ModelFit) -> RowFeatures | None:
    """How the evaluated model gets features of rows from its frozen stages' features; None where no stage is frozen."""
    frozen = fit.frozen
    if frozen is None:
        return None
    return lambda rows: frozen.prefix.rest(fit.validation_features(rows), fit.eval_model.backbone)


def complete_state(whole: dict[str, Tensor], trainable: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's state with its trainable part replaced, on the CPU."""
    return to_cpu({**whole, **trainable})


def to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, each in contiguous memory of its own, as safetensors needs them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
