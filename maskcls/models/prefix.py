"""Frozen prefix: the first n stages of a backbone, run apart from the rest, since their features never change in a fit.

Any timm backbone is cut behind the last module of its frozen stages. The prefix is the model's own forward pass, left
at the cut; the rest is that pass again with every module of the prefix replaced by the identity, so that the features
reach the cut unchanged. No code outside the model can know whether that is the same function, so it is tried out on a
block of noise before it is used.

A convolution's last bits depend on the batch size, so on the CPU the prefix always runs in padded blocks of one size: a
photo's features do not depend on its neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from maskcls.errors import is_out_of_memory
from maskcls.models.backbones import Backbone

BLOCK = {"cpu": 16, "cuda": 64}
"""Photos per forward pass of the prefix. On the CPU 16, 32 and 64 agree to the bit; with 16, padding is at most 15."""

_one_function: dict[tuple[object, ...], bool] = {}
"""By architecture, cut and size, whether prefix and rest together are the backbone: what this process tried out."""


class _Cut(Exception):  # noqa: N818 - not an error: it leaves the forward pass at the cut and carries the features
    def __init__(self, features: Tensor) -> None:
        self.features = features


class Prefix:
    """A backbone's frozen stages and what follows them. Made by `Prefix.of`, which tries out whether the cut works."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._modules = _outermost(backbone)
        self.whole = not any(parameter.requires_grad for parameter in backbone.parameters())
        """Whether the whole backbone is frozen, so that its features are what the heads see."""

    @classmethod
    def of(cls, backbone: Backbone, image_size: int) -> Prefix | None:
        """The backbone's prefix; None if no stage is frozen, or if this backbone can't be run from its cut on.

        Args:
            image_size: edge of the images that it will be given, px.

        Raises an error of torch where the memory does not suffice to try that out.
        """
        if not backbone.frozen_stages:
            return None
        prefix = cls(backbone)
        if prefix.whole:
            return prefix  # nothing of the backbone follows the cut
        tried = (type(backbone.model).__name__, *map(str, backbone.stages), backbone.frozen_stages, image_size)
        if tried not in _one_function:
            _one_function[tried] = prefix._is_one_function(image_size)
        return prefix if _one_function[tried] else None

    def features(self, images: Tensor, block: int) -> Tensor:
        """Normalised images (b, 3, s, s) -> features (b, ...) behind the frozen stages, without gradients.

        Maps (b, c, h, w) lie in channels_last memory, tokens (b, t, d) and vectors (b, n_features) are contiguous.

        Args:
            block: photos per forward pass; the last block is padded with zeros.
        """
        parts = []  # features of one block each, without its padding
        # Not inference_mode: the rest's backward pass reads these features, which that mode would forbid.
        with torch.no_grad():
            for start in range(0, len(images), block):
                part = images[start : start + block]
                missing = block - len(part)
                # (block, 3, s, s)
                padded = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
                parts.append(self._run(padded.contiguous(memory_format=torch.channels_last))[: len(part)])
        together = torch.cat(parts)
        return together.contiguous(memory_format=torch.channels_last) if together.ndim == 4 else together.contiguous()

    def rest(self, features: Tensor, backbone: Backbone | None = None) -> Tensor:
        """Features (b, ...) at the cut -> the backbone's features (b, n_features).

        Args:
            backbone: another backbone with the same frozen stages, for example the moving average of the weights.
        """
        backbone = backbone or self.backbone
        if self.whole:
            return features
        with _replaced_by_identity(backbone, self._modules if backbone is self.backbone else _outermost(backbone)):
            given: Tensor = backbone(features)
        return given

    def digest(self) -> str:
        """24 hex digits that depend on the frozen stages' weights and on where the cut is."""
        names = sorted(
            name
            for name in self.backbone.model.state_dict()
            if self.backbone.stage_of(name) <= self.backbone.frozen_stages
        )
        state = self.backbone.model.state_dict()
        digest = hashlib.sha256(f"{type(self.backbone.model).__name__} {self.backbone.frozen_stages}\n".encode())
        for name in names:
            digest.update(f"{name} {tuple(state[name].shape)}\n".encode())
            # as bytes: numpy has no bfloat16
            digest.update(state[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:24]

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
        raise RuntimeError("The frozen stages' last module did not run.")

    def _is_one_function(self, image_size: int) -> bool:
        """Whether prefix and rest together give what the backbone gives: to the bit on the CPU, closely on a GPU."""
        parameter = next(self.backbone.parameters())
        device = parameter.device
        # (16, 3, s, s), from a generator of its own: the fit's random numbers don't depend on what is tried out.
        noise = torch.randn(16, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
        images = noise.to(device, parameter.dtype).contiguous(memory_format=torch.channels_last)
        training = self.backbone.training
        # In train() the two passes would differ by dropout, and BatchNorm's statistics would change.
        self.backbone.eval()
        try:
            with torch.no_grad():
                whole, cut = self.backbone(images), self.rest(self.features(images, len(images)))
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
            if is_out_of_memory(error):
                raise  # says nothing about the cut, and must not be remembered
            # The forward pass does something between its modules that neither part knows of.
            return False
        finally:
            self.backbone.train(training)
        # Kernels of a GPU may differ between the two passes in their last bits.
        return torch.equal(whole, cut) if device.type == "cpu" else torch.allclose(whole, cut, rtol=1e-2, atol=1e-3)


def _leave(module: nn.Module, given: Any, features: Tensor) -> None:
    raise _Cut(features)


def _outermost(backbone: Backbone) -> list[nn.Module]:
    """The frozen stages' modules that lie in no other one of them, in the order of the forward pass."""
    frozen = set(map(id, backbone.frozen_modules))
    inside = {id(child) for module in backbone.frozen_modules for child in module.modules() if child is not module}
    return [module for module in backbone.model.modules() if id(module) in frozen - inside]


@contextmanager
def _replaced_by_identity(backbone: Backbone, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block these modules return their input unchanged.

    So does the method with which a plain transformer adds its position embedding, which is in no module.
    """
    replaced = [(module, "forward") for module in modules]
    replaced += [(backbone.model, name) for name in ("_pos_embed",) if hasattr(backbone.model, name)]
    for module, name in replaced:
        module.__dict__[name] = _identity  # the instance's attribute hides the class's method
    try:
        yield
    finally:
        for module, name in replaced:
            del module.__dict__[name]


def _identity(given: Tensor, *rest: Any, **options: Any) -> Tensor:
    return given
