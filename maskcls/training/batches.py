"""What a model's training step is fed: batches of views from the pixel store."""

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

Batch = tuple[Tensor, Tensor]


class Batches(Protocol):
    """The batches of any epoch of one model."""

    @property
    def steps(self) -> int:
        """Batches an epoch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based): what goes into the model (b, ...), and each photo's position (b,) among those trained on."""


class ViewBatches:
    """The batches of any epoch of one model: uint8 pixels (b, s, s, 3), and each photo's position (b,) among those it trains on.

    A view is a pure function of (photo, view, augmentation, augmentation_seed), so the number of workers changes nothing.
    """

    def __init__(
        self, recipe: Recipe, data: FitData, rows: NDArray[np.int64], draws: DrawStream, *, workers: int, pin: bool
    ) -> None:
        """`rows` (n,) of the data are what is trained on; `draws` chooses among them."""
        self._draws = draws
        self._views, self._batch_size, self._n = recipe.views, recipe.batch_size, len(rows)
        self._plan: list[list[tuple[int, int]]] = []
        self._loader: DataLoader[Any] = DataLoader(
            _Views(data, rows, Augmenter(recipe.augmentation, recipe.augmentation_seed)),
            batch_sampler=self._plan,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="fork"
            if workers
            else None,  # workers share the map of the pixels, and touch no GPU
            pin_memory=pin,
            generator=torch.Generator(),  # else it draws from torch's own, which dropout is seeded by
        )

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-self._n // self._batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0-based); their sizes differ by one at most, so that no last one is tiny."""
        positions, draw_numbers = self._draws.epoch(epoch)
        views = draw_numbers % self._views if self._views else draw_numbers
        pairs = np.stack([positions, views], axis=1)  # (n, 2)
        self._plan[:] = [[(int(p), int(v)) for p, v in part] for part in np.array_split(pairs, self.steps)]
        return iter(self._loader)


class _Views(Dataset[Any]):
    def __init__(self, data: FitData, rows: NDArray[np.int64], augmenter: Augmenter) -> None:
        self._data, self._rows, self._augmenter = data, rows, augmenter

    def __getitems__(self, pairs: list[tuple[int, int]]) -> Batch:
        positions = [position for position, _ in pairs]
        photos = [
            self._augmenter.view(self._data.pixels[row], self._data.keys[row], view)
            for row, (_, view) in zip(self._rows[positions], pairs, strict=True)
        ]
        return torch.from_numpy(np.stack(photos)), torch.tensor(positions)

    def __getitem__(self, pair: tuple[int, int]) -> Batch:
        return self.__getitems__([pair])


def _as_it_is(batch: Any) -> Any:
    return batch
