"""What a model's training step is given: batches of views from the pixel store, or their cached frozen features.

Shapes: b photos in a batch, n photos trained on, s the edge of the square that the model sees, in px.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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


class Batches(Protocol):
    """The batches of any epoch of one model."""

    @property
    def steps(self) -> int:
        """Batches per epoch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based)."""


class ViewBatches:
    """Batches of augmented pixels: uint8 (b, s, s, 3), and each photo's position (b,) among those trained on.

    A view is a pure function of (photo, view, augmentation, augmentation_seed), so the number of workers changes no
    number.

    Args:
        rows: (n,) of the data that are trained on.
        draws: chooses among the rows.
        workers: processes that augment; 0 augments in this one.
        pin: whether batches lie in pinned memory, from which they are copied to a GPU without waiting.
    """

    def __init__(
        self, recipe: Recipe, data: FitData, rows: Integers, draws: DrawStream, *, workers: int, pin: bool
    ) -> None:
        self._draws = draws
        self._views, self._batch_size, self._n = recipe.views, recipe.batch_size, len(rows)
        self._plan: list[list[tuple[int, int]]] = []  # per batch its (position, view) pairs; filled by `epoch`
        self._loader: DataLoader[Any] = DataLoader(
            _Views(data, rows, Augmenter(recipe.augmentation, recipe.augmentation_seed)),
            batch_sampler=self._plan,  # the same list object in every epoch, so that persistent workers stay
            collate_fn=_unchanged,  # `_Views.__getitems__` returns whole batches
            num_workers=workers,
            persistent_workers=workers > 0,
            # Forked workers share the memory map of the pixels; they touch no GPU, so forking is safe.
            multiprocessing_context="fork" if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),  # else it draws from torch's global generator, which seeds dropout
        )

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-self._n // self._batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based). Their sizes differ by one at most, so that the last one is not tiny."""
        positions, draw_numbers = self._draws.epoch(epoch)  # (n,) each
        views = draw_numbers % self._views if self._views else draw_numbers  # views = 0: every draw is a new view
        pairs = np.stack([positions, views], axis=1)  # (n, 2)
        self._plan[:] = [[(int(p), int(v)) for p, v in part] for part in np.array_split(pairs, self.steps)]
        return iter(self._loader)


class _Views(Dataset[Any]):
    """Augmented pixels by (position, view)."""

    def __init__(self, data: FitData, rows: Integers, augmenter: Augmenter) -> None:
        self._data, self._rows, self._augmenter = data, rows, augmenter

    def __getitems__(self, pairs: list[tuple[int, int]]) -> Batch:
        positions = [position for position, _ in pairs]
        photos = [
            self._augmenter.view(self._data.pixels[row], self._data.keys[row], view)
            for row, (_, view) in zip(self._rows[positions], pairs, strict=True)
        ]
        return torch.from_numpy(np.stack(photos)), torch.tensor(positions)  # (b, s, s, 3) uint8, (b,)

    def __getitem__(self, pair: tuple[int, int]) -> Batch:
        return self.__getitems__([pair])


def _unchanged(batch: Any) -> Any:
    return batch


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
        return -(-len(self._rows) // self._recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based): in each the same photos and views as in `ViewBatches`."""
        positions, draw_numbers = self._draws.epoch(epoch)  # (n,) each
        rows, views = self._rows[positions], draw_numbers % max(self._recipe.views, 1)  # (n,) each
        prepared = 0  # draws whose features are in the stores
        for batch in np.array_split(np.arange(len(positions)), self.steps):  # (b,) draws of this batch
            if batch[-1] >= prepared:
                ahead = slice(prepared, max(prepared + AHEAD, batch[-1] + 1))
                self._cached.prepare(rows[ahead], views[ahead])
                prepared = ahead.stop
            features = self._cached.of(rows[batch], views[batch])  # (b, ...)
            yield features.pin_memory() if self._pin else features, torch.from_numpy(positions[batch])
