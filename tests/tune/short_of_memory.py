"""Models that run out of memory in training, for batches above a size: what a small GPU does, on any machine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from maskcls.recipe import Recipe
from tune.fitting.request import FitRequest
from tune.fitting.worker import run_fit


def of_torch() -> None:
    """As a GPU without room."""
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def of_the_allocator() -> None:
    """A tensor that no machine has the memory for."""
    import torch

    torch.empty(2**50, dtype=torch.uint8)


@dataclass
class Memory:
    """Args:
    most: photos that fit in a training step.
    most_validated: photos that fit in a pass outside training.
    after: batches, or parts of them, before it gets short.
    fail: what then happens.
    """

    most: int
    after: int = 0
    fail: Callable[[], None] = of_torch
    most_validated: int = 1_000
    validated: list[int] = field(default_factory=list)
    """Photos of each pass through a backbone outside training, those that failed included."""
    seen: list[int] = field(default_factory=list)
    """Photos of each pass through a backbone in training, those that failed included."""
    models: list[weakref.ref[Any]] = field(default_factory=list)
    """Of each attempt the first one."""
    alive: list[int] = field(default_factory=list)
    """Models of earlier attempts that were still there when one began."""

    @contextmanager
    def short(self) -> Iterator[Memory]:
        """Inside the block every model that a fit builds has this memory."""
        from maskcls.models import model

        build = model.build_models

        def built(recipe: Recipe, *, pretrained: bool) -> Any:
            self.alive.append(sum(one() is not None for one in self.models))
            models = build(recipe, pretrained=pretrained)
            self.models.append(weakref.ref(models[0]))
            for one in models:
                one.backbone.register_forward_pre_hook(self._look)
            return models

        with mock.patch("maskcls.training.fit.build_models", built):
            yield self

    def _look(self, backbone: Any, inputs: tuple[Any, ...]) -> None:
        if not backbone.training:
            self.validated.append(len(inputs[0]))
            if len(inputs[0]) > self.most_validated:
                self.fail()
            return
        self.seen.append(len(inputs[0]))
        if len(inputs[0]) > self.most and len(self.seen) > self.after:
            self.fail()


@dataclass(frozen=True)
class FitsShortOfMemory:
    """The real objective, on a machine where no more than `most` photos fit."""

    most: int

    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, Any]:
        from maskcls.stores.cache_options import CacheOptions

        with Memory(self.most).short():
            yield from run_fit(request, cache=CacheOptions(request.run / "cache"), shared=False)
