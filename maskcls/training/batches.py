"""What a model's training step is given: batches of views from the pixel store, or their cached frozen features.

Shapes: b photos in a batch, n photos trained on, s the edge of the square that the model sees, in px.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from maskcls.data.augment import Augmenter
from maskcls.data.sampling import DrawStream
from maskcls.recipe import Recipe
from maskcls.training.fit_data import FitData
from maskcls.training.frozen import CachedFeatures

Integers = NDArray[np.int64]
Batch = tuple[Tensor, Tensor]
"""Pixels or features (b, ...), and each photo's position (b,) among the photos trained on."""
AHEAD = 512
"""Draws whose features are prepared together, before the first is trained on, so that they fill the prefix's blocks."""

AHEAD_EACH = 2
"""Batches that a loader process makes ahead."""
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux has the files through which torch's processes share tensors."""
SHARED_MEMORY_MARGIN = 4
"""By how much it should exceed what the loader needs: other fits of the machine, and Ray, use it as well."""


class Batches(Protocol):
    """The batches of any epoch of one model."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based)."""


class ViewLoader:
    """Makes the views of all models of a fit, in processes that the models share, as they are trained in turn.

    A view is a pure function of (photo, view, augmentation, augmentation_seed), so the number of processes changes no
    number.

    Args:
        workers: processes in all; 0 makes the views in this one.
        pin: whether batches lie in pinned memory, from which they are copied to a GPU without waiting.
    """

    def __init__(self, workers: int, *, pin: bool) -> None:
        self._workers, self._pin = workers, pin
        self._views = _Views()
        self._plan = _Plan()
        self._loader: DataLoader[Any] | None = None

    def add(self, recipe: Recipe, data: FitData) -> int:
        """Take on the views of a model of this recipe; returns the number by which the loader knows it.

        All models are added before the first view is asked for, because the processes get their copies then.
        """
        assert self._loader is None or not self._workers
        self._views.of_models.append(ModelViews(recipe, data))
        return len(self._views.of_models) - 1

    def batches(self, number: int, plan: Sequence[Integers]) -> Iterator[Tensor]:
        """Yield a model's pixels, uint8 (b, s, s, 3) for each batch of the plan; one model's at a time.

        Args:
            plan: for each batch the rows of the data and the views, (b, 2).
        """
        self._plan.batches = [[(number, int(row), int(view)) for row, view in pairs] for pairs in plan]
        if self._loader is None:
            ahead = self._workers * AHEAD_EACH * max(views.batch_bytes for views in self._views.of_models)
            self._views.as_arrays = self._workers > 0 and not _shared_memory_holds(ahead)
            self._loader = self._created()
        loaded = iter(self._loader)
        return map(self._as_tensor, loaded) if self._views.as_arrays else loaded

    def made(self, number: int, rows: Integers, views: Integers) -> Tensor:
        """A model's pixels, uint8 (m, s, s, 3), of rows (m,) of the data in these views (m,), by all processes."""
        pairs = np.stack([rows, views], axis=1)  # (m, 2)
        if not self._workers:
            return torch.from_numpy(self._views.of_models[number].pixels(pairs.tolist()))
        return torch.cat(list(self.batches(number, np.array_split(pairs, min(self._workers, len(pairs))))))

    def _created(self) -> DataLoader[Any]:
        return DataLoader(
            self._views,
            batch_sampler=self._plan,  # the same object in every epoch, so that persistent workers stay
            collate_fn=_unchanged,  # `_Views.__getitems__` returns whole batches
            num_workers=self._workers,
            prefetch_factor=AHEAD_EACH if self._workers else None,
            persistent_workers=self._workers > 0,
            # Forked workers share the memory map of the pixels; they touch no GPU, so forking is safe.
            multiprocessing_context="fork" if self._workers else None,
            pin_memory=self._pin,
            generator=torch.Generator(),  # else it draws from torch's global generator, which seeds dropout
        )

    def _as_tensor(self, pixels: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(pixels)
        return tensor.pin_memory() if self._pin else tensor


def _shared_memory_holds(n_bytes: int) -> bool:
    """Whether the shared memory, through which torch's processes send tensors, has room for so many bytes.

    Where it has not, as in a container with 64 MB of it, a process dies of a bus error. Arrays go through pipes.
    """
    try:
        return shutil.disk_usage(SHARED_MEMORY).free > SHARED_MEMORY_MARGIN * n_bytes
    except OSError:  # there is none
        return False


class _Plan(Sampler[list[tuple[int, int, int]]]):
    """The (model, row, view) of each batch of one epoch; an iteration keeps those that it began with."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Views(Dataset[Any]):
    """Augmented pixels by (model, row, view)."""

    def __init__(self) -> None:
        self.of_models: list[ModelViews] = []
        self.as_arrays = False
        """Whether batches are numpy's arrays, which go through pipes, instead of tensors in shared memory."""

    def __getitems__(self, wanted: list[tuple[int, int, int]]) -> Any:
        number = wanted[0][0]
        pixels = self.of_models[number].pixels([(row, view) for _, row, view in wanted])
        return pixels if self.as_arrays else torch.from_numpy(pixels)

    def __getitem__(self, wanted: tuple[int, int, int]) -> Any:
        return self.__getitems__([wanted])


def _unchanged(batch: Any) -> Any:
    return batch


class ModelViews:
    """Augmented pixels as one model is trained on them."""

    def __init__(self, recipe: Recipe, data: FitData) -> None:
        self._data = data
        self._augmenter = Augmenter(recipe.augmentation, recipe.augmentation_seed)
        self.batch_bytes = recipe.batch_size * int(data.pixels[0].nbytes)

    def pixels(self, pairs: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
        """Pixels (m, s, s, 3) of these m (row, view)."""
        photos = [self._augmenter.view(self._data.pixels[row], self._data.keys[row], view) for row, view in pairs]
        return np.stack(photos)


class ViewBatches:
    """Batches of augmented pixels: uint8 (b, s, s, 3), and each photo's position (b,) among those trained on.

    Args:
        rows: (n,) of the data that are trained on.
        draws: chooses among the rows.
        loader: makes the views, of this model and of others.
        number: the model's in the loader.
        pin: whether positions lie in pinned memory, as the loader's pixels.
    """

    def __init__(
        self, recipe: Recipe, rows: Integers, draws: DrawStream, loader: ViewLoader, number: int, *, pin: bool
    ) -> None:
        self._rows, self._draws, self._loader, self._number, self._pin = rows, draws, loader, number, pin
        self._views, self._batch_size = recipe.views, recipe.batch_size

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-self._draws.drawn // self._batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based). Their sizes differ by one at most, so that the last one is not tiny."""
        positions, draw_numbers = self._draws.epoch(epoch)  # (drawn,) each
        views = draw_numbers % self._views if self._views else draw_numbers  # views = 0: every draw is a new view
        pairs = np.stack([self._rows[positions], views], axis=1)  # (drawn, 2)
        of_batches = map(torch.from_numpy, np.array_split(positions, self.steps))
        loaded = self._loader.batches(self._number, np.array_split(pairs, self.steps))
        for pixels, of_batch in zip(loaded, of_batches, strict=True):
            yield pixels, of_batch.pin_memory() if self._pin else of_batch


class FeatureBatches:
    """Batches of cached features (b, ...) in place of pixels, and each photo's position (b,) among those trained on.

    Args:
        rows: (n,) of the data that are trained on.
        draws: chooses among the rows.
        cached: the features of all photos in all views.
        pin: as in `ViewBatches`.
    """

    def __init__(self, recipe: Recipe, rows: Integers, draws: DrawStream, cached: CachedFeatures, *, pin: bool) -> None:
        self._recipe, self._rows, self._draws, self._cached, self._pin = recipe, rows, draws, cached, pin

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-self._draws.drawn // self._recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based): in each the same photos and views as in `ViewBatches`."""
        positions, draw_numbers = self._draws.epoch(epoch)  # (drawn,) each
        rows, views = self._rows[positions], draw_numbers % max(self._recipe.views, 1)  # (drawn,) each
        prepared = 0  # draws whose features are in the stores
        for batch in np.array_split(np.arange(len(positions)), self.steps):  # (b,) draws of this batch
            if batch[-1] >= prepared:
                ahead = slice(prepared, max(prepared + AHEAD, batch[-1] + 1))
                self._cached.prepare(rows[ahead], views[ahead])
                prepared = ahead.stop
            features = self._cached.of(rows[batch], views[batch])  # (b, ...)
            yield features.pin_memory() if self._pin else features, torch.from_numpy(positions[batch])
