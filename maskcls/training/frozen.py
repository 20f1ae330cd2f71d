"""Features from a model's frozen stages in a fit, for the views that it trains on and the photos that it validates on.

Cached, or computed when they are needed, the numbers are the same to the bit on the CPU in float32: either way they
come from `models.prefix`, in blocks of one size.

Shapes: m photos or views at a time; features (m, ...) are maps (m, c, h, w) where the cut lies among convolutions,
tokens (m, t, d) in a transformer, and vectors (m, n_features) where the whole backbone is frozen.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maskcls.data.augment import Augmenter
from maskcls.data.sampling import DrawStream
from maskcls.errors import RunError
from maskcls.machine import hardware_name, matrix_precision
from maskcls.models.model import Model
from maskcls.models.prefix import BLOCK, Prefix
from maskcls.recipe import Recipe
from maskcls.stores.features import FeatureStore, FeatureStores, Key, as_rows, as_tensor, fill, stored_type
from maskcls.training.fit_data import FitData

Integers = NDArray[np.int64]

MakeViews = Callable[[Integers, Integers], Tensor]

log = logging.getLogger("maskcls")

UNAUGMENTED = -1
"""The view of a photo as it is."""
READ_BYTES_PER_S = 1e9
"""How fast a store is read, for the estimate whether caching pays: as fast as a good disk, slower than memory."""
FLOP_PER_S = {"cpu": 2e10, "cuda": 2e13}
"""How fast a thread of a CPU, or a GPU, computes, likewise. A constant, because a trial must decide as others do that
compute the same, and as it did before it was resumed. One thread of a Xeon did 24 and 32 GFLOP/s of resnet10t at 112
and 64 px (n = 1); for GPUs it is an order of magnitude."""
_CODE = 2
"""Raise it where the code here or in models.prefix changes what is stored."""

_warned: set[Path] = set()
"""Caches whose problems this process has logged."""


class NotCached(StrEnum):
    """Why frozen features are not cached, as a curve's rows say it. Reasons with numbers are made where they arise."""

    NOTHING_FROZEN = "no stage is frozen, or the backbone can't be run from its cut on"
    NO_STORES = "no place to keep them was given"
    MIXED = "photos are mixed before they go through the frozen stages"
    NEW_VIEWS = "every draw is a new view (views = 0)"
    NO_VALIDATION = "nobody is validated on"
    MEMORY_SHORT = "the memory is too short to compute them in blocks of one size"


class CachedFeatures:
    """Features of some photos in some views, in one precision, from their stores; computed live if the cache is full.

    Args:
        rows: (n,) of the data that a store has room for, in ascending order.
        augmenter: what the views are augmented by, for the stores' keys; None: every view is the photo as it is.
        make: rows (m,) of the data and views (m,) -> pixels uint8 (m, s, s, 3); not called without an augmenter.
    """

    def __init__(
        self,
        frozen: FrozenStages,
        stores: FeatureStores,
        rows: Integers,
        precision: torch.dtype,
        augmenter: Augmenter | None = None,
        make: MakeViews | None = None,
    ) -> None:
        self._frozen, self._stores, self._rows, self.precision = frozen, stores, rows, precision
        self._augmenter, self._make = augmenter, make
        self.unaugmented = augmenter is None
        self._open: dict[int, FeatureStore | None] = {}  # by view; None: the cache gave none
        self.read = 0
        """Photos whose features were copied out of stores, in every call again."""
        self.filled = 0
        """Features that were computed here and put into stores."""
        self.filling_s = 0.0
        """How long it took to fill stores, and to wait for others that filled them."""
        self._computed, self._computing_s = 0, 0.0
        self.problem = ""
        """What is wrong with the cache, so that not all features are cached; "" where nothing is."""
        # One photo through the prefix tells the shape of a photo's features as they are stored, without the leading 1.
        self._shape = as_rows(frozen.compute(rows[:1], precision, block=1)).shape[1:]

    @property
    def bytes_per_view(self) -> int:
        """Size of the store of one view of all rows."""
        return self._key(UNAUGMENTED).n_bytes

    def slower_than_computing(self) -> str:
        """Why reading these features would take longer than computing them; "" if not, or if there is a store."""
        if self._stores.holds(self._key(UNAUGMENTED if self.unaugmented else 0)):
            return ""
        reading_s = self.bytes_per_view / len(self._rows) / READ_BYTES_PER_S
        computing_s = self._frozen.seconds_per_photo
        if reading_s < computing_s:
            return ""
        reading_ms, computing_ms = 1e3 * reading_s, 1e3 * computing_s
        return f"they would not pay: {reading_ms:.1f} ms to read a photo's, {computing_ms:.1f} ms to compute them"

    def of(self, rows: Integers, views: Integers | None = None) -> Tensor:
        """Features (m, ...), on the CPU, of rows (m,) of the data in these views (m,), or as they are."""
        views = self._views(rows, views)
        self.prepare(rows, views)
        features = np.empty((len(rows), *self._shape), stored_type(self.precision))
        live = np.zeros(len(rows), bool)  # (m,) which of them no store holds
        for at, positions, store in self._by_view(rows, views):
            stored = np.zeros(len(at), bool) if store is None else ~store.lacks(positions)
            if store is not None:
                store.copy(positions[stored], features, at[stored])
                self.read += len(np.unique(positions[stored]))  # a block is padded with copies of its last photo
            live[at[~stored]] = True
        if live.any():
            features[live] = as_rows(self._compute(rows[live], views[live]))
        return as_tensor(features, self.precision)

    def prepare(self, rows: Integers, views: Integers | None = None) -> None:
        """See that stores hold these (m,) rows and views, each computed once by all processes that want it.

        Many at a time are cheaper than few: they fill the prefix's blocks.
        """
        views = self._views(rows, views)
        wanted: list[tuple[FeatureStore, int]] = []
        missing: list[int] = []  # of each wanted one, where it stands in `rows`
        for at, positions, store in self._by_view(rows, views):
            if store is not None and store.takes_rows:
                _, first = np.unique(positions, return_index=True)  # a sampler may draw a photo twice in one view
                lacking = first[store.lacks(positions[first])]
                wanted += [(store, position) for position in positions[lacking].tolist()]
                missing += at[lacking].tolist()
        rows, views = rows[missing], views[missing]
        self.filled += len(rows)
        began = perf_counter()
        try:
            fill(wanted, lambda numbers: self._compute(rows[numbers], views[numbers]), self._frozen.block)
        except OSError as error:  # the disk is full, or fails: from now on everything is computed live
            self._note_problem(f"takes none: {error}")
            self._open = dict.fromkeys(self._open)
        if wanted:
            self.filling_s += perf_counter() - began

    def _views(self, rows: Integers, views: Integers | None) -> Integers:
        return np.full(len(rows), UNAUGMENTED) if views is None or self.unaugmented else views

    def _by_view(self, rows: Integers, views: Integers) -> Iterator[tuple[Integers, Integers, FeatureStore | None]]:
        """For each view: its places (j,) among the rows, those rows' positions (j,) in its store, and the store."""
        for view in np.unique(views).tolist():
            at = np.flatnonzero(views == view)
            if view not in self._open:
                self._open[view] = self._opened(view)
            yield at, np.searchsorted(self._rows, rows[at]), self._open[view]

    def _opened(self, view: int) -> FeatureStore | None:
        try:
            store = self._stores.open(self._key(view))
        except (OSError, RunError) as error:
            self._note_problem(f"takes none: {error}")
            return None
        if not store.takes_rows:
            self._note_problem("may only be read, and what it has not is computed whenever it is needed")
        return store

    def _note_problem(self, problem: str) -> None:
        """Log once per process and cache why training is slower than it might be, and note it for the fit's record."""
        named = f"cache for frozen features, {self._stores.cache}, {problem}"
        self.problem = f"the {named}"
        if self._stores.cache not in _warned:
            _warned.add(self._stores.cache)
            log.warning("The %s. Training goes on, more slowly.", named)

    @property
    def seconds_each(self) -> float:
        """How long a photo's features take: as measured here, or by an estimate where none were computed."""
        return self._computing_s / self._computed if self._computed else self._frozen.seconds_per_photo

    def _compute(self, rows: Integers, views: Integers) -> Tensor:
        began = perf_counter()
        if self._make is None or self.unaugmented:
            features = self._frozen.compute(rows, self.precision)
        else:
            features = self._frozen.of_pixels(self._make(rows, views), self.precision)
        self._computed, self._computing_s = self._computed + len(rows), self._computing_s + perf_counter() - began
        return features

    def _key(self, view: int) -> Key:
        parts = self._frozen.key_parts(self._rows)
        if self._augmenter is not None and view != UNAUGMENTED:
            parts |= {
                "augmentation": self._augmenter.strengths,
                "seed": self._augmenter.seed,
                "albumentations": version("albumentations"),
            }
        named = "as it is" if view == UNAUGMENTED else f"view {view}"
        return Key({**parts, "view": named}, len(self._rows), self._shape, self.precision)


@dataclass(frozen=True)
class CacheDecision:
    """Whether the frozen features of some photos are cached.

    Args:
        features: the cached features; None where they are computed whenever they are needed.
        reason: why they are not cached, for people; "" where they are.
    """

    features: CachedFeatures | None
    reason: str = ""

    @property
    def status(self) -> str:
        """`kept`, or why not all of them are: stands in a curve's rows as `frozen_features`."""
        return str(self.reason) or self.problem or "kept"  # a plain str: rows travel to processes without this module

    @property
    def problem(self) -> str:
        """What is wrong with the cache, so that not all of them are cached; "" where nothing is."""
        return "" if self.features is None else self.features.problem


class FrozenStages:
    """The frozen stages of one model in a fit.

    Args:
        prefix: of the model's backbone.
        data: whose pixels go through the prefix.
        micro_batch: photos that the memory has room for in training; 0: a whole batch.
    """

    def __init__(self, model: Model, prefix: Prefix, data: FitData, micro_batch: int = 0) -> None:
        self.model, self.prefix, self.data = model, prefix, data
        self.device = model.mean.device
        self.block = BLOCK[self.device.type]
        if self.device.type != "cpu" and micro_batch:
            self.block = min(self.block, micro_batch)  # else smaller micro-batches would not help the prefix

    def compute(self, rows: Integers, precision: torch.dtype, *, block: int = 0) -> Tensor:
        """Features (m, ...) of rows (m,) of the data as they are, computed now, on the model's device.

        Args:
            block: photos per forward pass; 0: the device's block.
        """
        return self.of_pixels(torch.from_numpy(self.data.pixels[rows]), precision, block)

    def of_pixels(self, pixels: Tensor, precision: torch.dtype, block: int = 0) -> Tensor:
        """Pixels uint8 (m, s, s, 3) -> features (m, ...), on the model's device, as `compute` gives them."""
        return self.of_images(self.model.normalise(pixels.to(self.device)), precision, block or self.block)

    def of_images(self, images: Tensor, precision: torch.dtype, block: int) -> Tensor:
        """Normalised images (m, 3, s, s) -> features (m, ...), in forward passes of `block` photos."""
        with self._autocast(precision), matrix_precision():  # in float32 as in validation and prediction
            return self.prefix.features(images, block).to(precision)

    def _autocast(self, precision: torch.dtype) -> torch.autocast:
        return torch.autocast(self.device.type, precision, enabled=precision != torch.float32)

    @cached_property
    def seconds_per_photo(self) -> float:
        """How long the frozen stages take, by the number of their floating-point operations."""
        size = self.model.recipe.image_size
        image = self.model.normalise(torch.zeros(1, size, size, 3, dtype=torch.uint8, device=self.device))
        with FlopCounterMode(display=False) as counter:
            self.prefix.features(image, 1)
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        return float(counter.get_total_flops() / (FLOP_PER_S[self.device.type] * threads))

    def key_parts(self, rows: Integers) -> dict[str, object]:
        """All that the numbers depend on, except for the view: for a store's key."""
        photos = "\n".join([self.data.pixels_digest, *(self.data.keys[row] for row in rows)])
        return {**self._key_parts, "photos": hashlib.sha256(photos.encode()).hexdigest()[:24]}

    @cached_property
    def _key_parts(self) -> dict[str, object]:
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
            "threads": torch.get_num_threads() if self.device.type == "cpu" else 0,  # they decide the order of sums
            **({} if self.device.type == "cpu" else {"float32 products": "tf32"}),
            "torch": torch.__version__,
            "timm": version("timm"),
        }


def cache_for_training(
    frozen: FrozenStages | None,
    stores: FeatureStores | None,
    recipe: Recipe,
    precision: torch.dtype,
    draws: DrawStream,
    make: MakeViews,
) -> CacheDecision:
    """Decide whether training views' features are cached. A store has room for all photos: every split shares it.

    Args:
        make: as of `CachedFeatures`.
    """
    if frozen is None:
        return CacheDecision(None, NotCached.NOTHING_FROZEN)
    if stores is None or not frozen.data.pixels_digest:
        return CacheDecision(None, NotCached.NO_STORES)
    augmenter = Augmenter(recipe.augmentation, recipe.augmentation_seed)
    unaugmented = not augmenter.transforms
    if recipe.mix != "none":
        return CacheDecision(None, NotCached.MIXED)
    if not unaugmented and not recipe.views:
        return CacheDecision(None, NotCached.NEW_VIEWS)
    views = 1 if unaugmented else recipe.views
    everyone = np.arange(len(frozen.data.labels))  # (photos,)
    cached = CachedFeatures(frozen, stores, everyone, precision, None if unaugmented else augmenter, make)
    distinct = 0 if stores.shared else _distinct_views(draws, recipe.epochs, views)
    return _decision(cached, stores.refusal(views * cached.bytes_per_view, recipe.epochs * draws.drawn, distinct))


def cache_for_validation(
    frozen: FrozenStages | None, stores: FeatureStores | None, recipe: Recipe, training: CacheDecision
) -> CacheDecision:
    """Decide whether the validation photos' float32 features are cached; in the training's store if both are the same.

    Args:
        training: what was decided for the training views.
    """
    if frozen is None:
        return CacheDecision(None, NotCached.NOTHING_FROZEN)
    if stores is None or not frozen.data.pixels_digest:
        return CacheDecision(None, NotCached.NO_STORES)
    shared = training.features
    if shared is not None and shared.unaugmented and shared.precision == torch.float32:
        return training
    rows = np.sort(frozen.data.validation)
    if not len(rows):
        return CacheDecision(None, NotCached.NO_VALIDATION)
    cached = CachedFeatures(frozen, stores, rows, torch.float32)
    return _decision(cached, stores.refusal(cached.bytes_per_view, recipe.epochs * len(rows), len(rows)))


def _decision(cached: CachedFeatures, refusal: str) -> CacheDecision:
    reason = refusal or cached.slower_than_computing()
    return CacheDecision(None, reason) if reason else CacheDecision(cached)


def _distinct_views(draws: DrawStream, epochs: int, views: int) -> int:
    """How many different (photo, view) a fit draws."""
    drawn = np.zeros(draws.n * views, bool)
    for epoch in range(epochs):
        positions, numbers = draws.epoch(epoch)  # (drawn,) each
        drawn[positions * views + numbers % views] = True
    return int(drawn.sum())
