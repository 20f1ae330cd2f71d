"""The frozen prefix of a backbone apart from the rest: what its first n stages give for a photo does not change in a fit.

Any timm backbone is cut behind the last module of its frozen stages. The prefix is the model's own forward pass, left at the cut; the
rest is that pass again with every module of the prefix doing nothing, so that what goes in comes to the cut as it is. Whether that is
the same function, which no code outside the model can know, is tried out on a block of noise before it is used.

A convolution's last bits hang on the batch size, so on the CPU the prefix runs in padded blocks of one size wherever it runs: a photo's
features do not hang on its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from maskcls.models.backbones import Backbone

BLOCK = {"cpu": 16, "cuda": 64}
"""Photos of a forward pass through the prefix. On the CPU 16, 32 and 64 agree to the bit, and a block wastes at most 15."""


_one_function: dict[tuple[object, ...], bool] = {}
"""What was tried out in this process."""


class _Cut(Exception):  # noqa: N818 - not an error: it carries the features out of the model
    def __init__(self, features: Tensor) -> None:
        self.features = features


class Prefix:
    """A backbone's frozen stages and what follows them. `of` makes one."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._modules = _outermost(backbone)
        self.whole = not any(parameter.requires_grad for parameter in backbone.parameters())
        """Whether the whole backbone is frozen, so that its features are what the heads see."""

    @classmethod
    def of(cls, backbone: Backbone, image_size: int) -> Prefix | None:
        """None where no stage is frozen, or where this backbone can't be run from its cut on."""
        if not backbone.frozen_stages:
            return None
        prefix = cls(backbone)
        if prefix.whole:
            return prefix
        tried = (type(backbone.model).__name__, *map(str, backbone.stages), backbone.frozen_stages, image_size)
        if tried not in _one_function:
            _one_function[tried] = prefix._is_one_function(image_size)
        return prefix if _one_function[tried] else None

    def features(self, images: Tensor, block: int) -> Tensor:
        """Normalised images (b, 3, s, s) -> what the frozen stages give, without gradients; maps (b, c, h, w) are channels_last.

        Args:
            block: photos of a forward pass; the last one is padded.
        """
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), block):
                part = images[start : start + block]
                missing = block - len(part)
                padded = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
                parts.append(self._run(padded.contiguous(memory_format=torch.channels_last))[: len(part)])
        together = torch.cat(parts)
        return together.contiguous(memory_format=torch.channels_last) if together.ndim == 4 else together.contiguous()

    def rest(self, features: Tensor, backbone: Backbone | None = None) -> Tensor:
        """What the frozen stages gave -> the backbone's features (b, n_features).

        Args:
            backbone: another one with the same frozen stages, as a moving average of the weights is.
        """
        backbone = backbone or self.backbone
        if self.whole:
            return features
        with _doing_nothing(backbone, self._modules if backbone is self.backbone else _outermost(backbone)):
            given: Tensor = backbone(features)
        return given

    def digest(self) -> str:
        """24 hex digits of the frozen stages' weights and of where the cut is."""
        names = sorted(
            name
            for name in self.backbone.model.state_dict()
            if self.backbone.stage_of(name) <= self.backbone.frozen_stages
        )
        state = self.backbone.model.state_dict()
        told = hashlib.sha256(f"{type(self.backbone.model).__name__} {self.backbone.frozen_stages}\n".encode())
        for name in names:
            told.update(f"{name} {tuple(state[name].shape)}\n".encode())
            told.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return told.hexdigest()[:24]

    def _run(self, images: Tensor) -> Tensor:
        if self.whole:
            given: Tensor = self.backbone(images)
            return given
        hook = self._modules[-1].register_forward_hook(_leave)
        try:
            self.backbone(images)
        except _Cut as cut:
            return cut.features
        finally:
            hook.remove()
        raise RuntimeError("The frozen stages' last module was not run.")

    def _is_one_function(self, image_size: int) -> bool:
        """Whether prefix and rest together give what the backbone gives, to the bit on the CPU."""
        parameter = next(self.backbone.parameters())
        device = parameter.device
        noise = torch.randn(16, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        images = noise.to(device, parameter.dtype).contiguous(memory_format=torch.channels_last)
        training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                whole, cut = self.backbone(images), self.rest(self.features(images, len(images)))
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, AssertionError):
            return False
        finally:
            self.backbone.train(training)
        return torch.equal(whole, cut) if device.type == "cpu" else torch.allclose(whole, cut, rtol=1e-2, atol=1e-3)


def _leave(module: nn.Module, given: Any, features: Tensor) -> None:
    raise _Cut(features)


def _outermost(backbone: Backbone) -> list[nn.Module]:
    """The modules of the frozen stages that stand in no other one of them, in the order of the forward pass."""
    frozen = set(map(id, backbone.frozen_modules))
    inside = {id(child) for module in backbone.frozen_modules for child in module.modules() if child is not module}
    return [module for module in backbone.model.modules() if id(module) in frozen - inside]


@contextmanager
def _doing_nothing(backbone: Backbone, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block modules give what they get; so does a plain transformer where it adds its position embedding, outside of any."""
    replaced = [(module, "forward") for module in modules]
    replaced += [(backbone.model, name) for name in ("_pos_embed",) if hasattr(backbone.model, name)]
    for module, name in replaced:
        module.__dict__[name] = _as_it_is
    try:
        yield
    finally:
        for module, name in replaced:
            del module.__dict__[name]


def _as_it_is(given: Tensor, *rest: Any, **options: Any) -> Tensor:
    return given
