"""What a model's frozen stages give in a fit: for the views that it trains on and for the photos that it validates on.

Kept or computed when they are needed, the numbers are the same to the bit on the CPU in float32: either way they come from
`models.prefix`, in blocks of one size.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskcls.data.augment import Augmenter
from maskcls.data.sampling import DrawStream
from maskcls.errors import RunError
from maskcls.machine import hardware_name
from maskcls.models.model import Model
from maskcls.models.prefix import BLOCK, Prefix
from maskcls.recipe import Recipe
from maskcls.stores.features import FeatureStore, FeatureStores, Key, as_rows, as_tensor, fill, stored_type
from maskcls.training.fit_data import FitData

Integers = NDArray[np.int64]

NOTHING_FROZEN, NO_STORES = (
    "no stage is frozen, or the backbone can't be run from its cut on",
    "no place to keep them was given",
)
log = logging.getLogger("maskcls")

PLAIN = -1
"""The view of a photo as it is."""
READ_BYTES_A_SECOND = 1e9
"""Of a store, for the estimate whether it pays: a good disk's, less than memory's."""
AHEAD = 512
"""Draws whose features are seen to together, before the first of them is trained on."""
_CODE = 2
"""Raise it where the code here or in models.prefix changes what is stored."""


_told: set[Path] = set()
"""Caches that this process has complained of."""


class Kept:
    """The features of some photos in some views, of one precision, from their stores; computed live where the cache has no room.

    Args:
        rows: (n,) of the data that a store has room for, rising.
        plain: whether every view is the photo as it is.
    """

    def __init__(
        self,
        frozen: FrozenStages,
        stores: FeatureStores,
        rows: Integers,
        precision: torch.dtype,
        *,
        plain: bool,
        augmenter: Augmenter,
    ) -> None:
        self._frozen, self._stores, self._rows, self.precision = frozen, stores, rows, precision
        self._augmenter = augmenter
        self.plain = plain
        self._open: dict[int, FeatureStore | None] = {}
        self.given_up = ""
        """Why features that should be kept are not, or not all of them: what is wrong with the cache."""
        self._shape = as_rows(frozen.compute(rows[:1], np.array([PLAIN]), precision, block=1)).shape[1:]

    @property
    def bytes_a_view(self) -> int:
        return self._key(PLAIN).n_bytes

    def slower_than_computing(self) -> str:
        """Why reading these features would take longer than computing them; "" where it would not, or where a store was made before."""
        if self._stores.holds(self._key(PLAIN if self.plain else 0)):
            return ""
        reading = self.bytes_a_view / len(self._rows) / READ_BYTES_A_SECOND
        computing = self._frozen.seconds_a_photo(self.precision)
        if reading < computing:
            return ""
        return f"they would not pay: {1e3 * reading:.1f} ms to read a photo's, {1e3 * computing:.1f} ms to compute them"

    def of(self, rows: Integers, views: Integers | None = None) -> Tensor:
        """Features (b, ...) of rows of the data, in these views or as they are; on the CPU."""
        views = self._views(rows, views)
        self.prepare(rows, views)
        features = np.empty((len(rows), *self._shape), stored_type(self.precision))
        live = np.zeros(len(rows), bool)
        for at, positions, store in self._by_view(rows, views):
            there = np.zeros(len(at), bool) if store is None else ~store.lacks(positions)
            if store is not None:
                store.copy(positions[there], features, at[there])
            live[at[~there]] = True
        if live.any():
            features[live] = as_rows(self._compute(rows[live], views[live]))
        return as_tensor(features, self.precision)

    def prepare(self, rows: Integers, views: Integers | None = None) -> None:
        """See that stores hold these, each computed once by all processes that want it: many at a time fill the prefix's blocks."""
        views = self._views(rows, views)
        wanted: list[tuple[FeatureStore, int]] = []
        asked: list[int] = []
        for at, positions, store in self._by_view(rows, views):
            if store is not None and store.takes_rows:
                _, first = np.unique(positions, return_index=True)
                lacking = first[store.lacks(positions[first])]
                wanted += [(store, position) for position in positions[lacking].tolist()]
                asked += at[lacking].tolist()
        rows, views = rows[asked], views[asked]
        try:
            fill(wanted, lambda numbers: self._compute(rows[numbers], views[numbers]), self._frozen.block)
        except OSError as error:
            self._give_up(f"takes none: {error}")
            self._open = dict.fromkeys(self._open)

    def _views(self, rows: Integers, views: Integers | None) -> Integers:
        return np.full(len(rows), PLAIN) if views is None or self.plain else views

    def _by_view(self, rows: Integers, views: Integers) -> Iterator[tuple[Integers, Integers, FeatureStore | None]]:
        """Of each view where it stands among the rows, the positions of those in its store, and the store."""
        for view in np.unique(views).tolist():
            at = np.flatnonzero(views == view)
            if view not in self._open:
                self._open[view] = self._opened(view)
            yield at, np.searchsorted(self._rows, rows[at]), self._open[view]

    def _opened(self, view: int) -> FeatureStore | None:
        try:
            store = self._stores.open(self._key(view))
        except (OSError, RunError) as error:
            self._give_up(f"takes none: {error}")
            return None
        if not store.takes_rows:
            self._give_up("may only be read, and what it has not is computed whenever it is needed")
        return store

    def _give_up(self, why: str) -> None:
        """Say once a process why training is slower than it might be, and keep it for the fit's record."""
        self.given_up = f"the cache for frozen features, {self._stores.cache}, {why}"
        if self._stores.cache not in _told:
            _told.add(self._stores.cache)
            log.warning("T%s. Training goes on, more slowly.", self.given_up[1:])

    def _compute(self, rows: Integers, views: Integers) -> Tensor:
        return self._frozen.compute(rows, views, self.precision, self._augmenter)

    def _key(self, view: int) -> Key:
        augmented = {
            "augmentation": self._augmenter.strengths,
            "seed": self._augmenter.seed,
            "albumentations": version("albumentations"),
        }
        parts = {**self._frozen.parts(self._rows), **(augmented if view != PLAIN else {})}
        return Key(
            {**parts, "view": "as it is" if view == PLAIN else f"view {view}"},
            len(self._rows),
            self._shape,
            self.precision,
        )


class FrozenStages:
    """The frozen stages of one model in a fit.

    Args:
        prefix: of the model.
    """

    def __init__(self, model: Model, prefix: Prefix, data: FitData) -> None:
        self.model, self.prefix, self.data = model, prefix, data
        self.device = model.mean.device
        self.block = BLOCK[self.device.type]

    def compute(
        self,
        rows: Integers,
        views: Integers,
        precision: torch.dtype,
        augmenter: Augmenter | None = None,
        *,
        block: int = 0,
    ) -> Tensor:
        """Features of rows (b,) of the data in these views (b,), computed now, on the model's device."""
        photos = [self.data.pixels[row] for row in rows]
        if augmenter is not None:
            asked = zip(photos, rows.tolist(), views.tolist(), strict=True)
            photos = [
                photo if view == PLAIN else augmenter.view(photo, self.data.keys[row], view)
                for photo, row, view in asked
            ]
        return self.of_images(
            self.model.normalise(torch.from_numpy(np.stack(photos)).to(self.device)), precision, block or self.block
        )

    def of_images(self, images: Tensor, precision: torch.dtype, block: int) -> Tensor:
        """Features of normalised images (b, 3, s, s)."""
        with self._autocast(precision):
            return self.prefix.features(images, block).to(precision)

    def _autocast(self, precision: torch.dtype) -> torch.autocast:
        return torch.autocast(self.device.type, precision, enabled=precision != torch.float32)

    def seconds_a_photo(self, precision: torch.dtype) -> float:
        """Of the frozen stages alone, measured on one block of black photos."""
        size = self.model.recipe.image_size
        images = self.model.normalise(torch.zeros(self.block, size, size, 3, dtype=torch.uint8, device=self.device))
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            with self._autocast(precision):
                self.prefix.features(images, self.block)[0].sum().item()  # waits for the device
        return (time.perf_counter() - began) / self.block

    def parts(self, rows: Integers) -> dict[str, object]:
        """What the numbers hang on, but for the view."""
        photos = hashlib.sha256(
            "\n".join([self.data.pixels_digest, *(self.data.keys[row] for row in rows)]).encode()
        ).hexdigest()[:24]
        return {**self._parts, "photos": photos}

    @cached_property
    def _parts(self) -> dict[str, object]:
        recipe = self.model.recipe
        return {
            "code": _CODE,
            "backbone": recipe.backbone,
            "weights": self.prefix.digest(),
            "stages": f"{recipe.frozen_stages} of 5 stages",
            "image_size": recipe.image_size,
            "mean": self.model.mean.flatten().tolist(),
            "std": self.model.std.flatten().tolist(),
            "hardware": hardware_name(self.device.type),
            "block": self.block,
            "threads": torch.get_num_threads() if self.device.type == "cpu" else 0,
            "torch": torch.__version__,
            "timm": version("timm"),
        }


def kept_for_training(
    frozen: FrozenStages | None, stores: FeatureStores | None, recipe: Recipe, precision: torch.dtype, draws: DrawStream
) -> Kept | str:
    """The training views' features, or why they are not kept. Stores have room for all photos: every split of the people shares them."""
    if frozen is None or stores is None or not frozen.data.pixels_digest:
        return NOTHING_FROZEN if frozen is None else NO_STORES
    augmenter = Augmenter(recipe.augmentation, recipe.augmentation_seed)
    plain = not augmenter.transforms
    if recipe.mix != "none":
        return "photos are mixed before they go through the frozen stages"
    if not plain and not recipe.views:
        return "every draw is a new view (views = 0)"
    views = 1 if plain else recipe.views
    kept = Kept(frozen, stores, np.arange(len(frozen.data.labels)), precision, plain=plain, augmenter=augmenter)
    unlike = 0 if stores.shared else _unlike(draws, recipe.epochs, views)
    return (
        stores.refusal(views * kept.bytes_a_view, recipe.epochs * draws.n, unlike)
        or kept.slower_than_computing()
        or kept
    )


def _unlike(draws: DrawStream, epochs: int, views: int) -> int:
    """How many different views of photos a fit draws."""
    seen = np.zeros(draws.n * views, bool)
    for epoch in range(epochs):
        positions, numbers = draws.epoch(epoch)
        seen[positions * views + numbers % views] = True
    return int(seen.sum())


def kept_for_validation(
    frozen: FrozenStages | None, stores: FeatureStores | None, recipe: Recipe, training: Kept | str
) -> Kept | str:
    """The validation photos' features in float32, or why they are not kept. They share the training's store where both are the same."""
    if frozen is None or stores is None or not frozen.data.pixels_digest:
        return NOTHING_FROZEN if frozen is None else NO_STORES
    if isinstance(training, Kept) and training.plain and training.precision == torch.float32:
        return training
    rows = np.sort(frozen.data.validation)
    if not len(rows):
        return "nobody is validated on"
    kept = Kept(frozen, stores, rows, torch.float32, plain=True, augmenter=Augmenter({}, 0))
    return (
        stores.refusal(kept.bytes_a_view, recipe.epochs * len(rows), len(rows)) or kept.slower_than_computing() or kept
    )


class FeatureBatches:
    """As `training.views.ViewBatches`, of stored features in place of pixels: (b, ...) features, and positions (b,)."""

    def __init__(self, recipe: Recipe, rows: Integers, draws: DrawStream, kept: Kept, *, pin: bool) -> None:
        self._recipe, self._rows, self._draws, self._kept, self._pin = recipe, rows, draws, kept, pin

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self._rows) // self._recipe.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch (0-based); the same photos and views in each as ViewBatches has."""
        positions, draw_numbers = self._draws.epoch(epoch)
        rows, views = self._rows[positions], draw_numbers % max(self._recipe.views, 1)
        seen = 0
        for at in np.array_split(np.arange(len(positions)), self.steps):
            if at[-1] >= seen:
                ahead = slice(seen, max(seen + AHEAD, at[-1] + 1))
                self._kept.prepare(rows[ahead], views[ahead])
                seen = ahead.stop
            features = self._kept.of(rows[at], views[at])
            yield features.pin_memory() if self._pin else features, torch.from_numpy(positions[at])
