"""What a backbone's frozen stages give, and the rest on top of it, are the backbone; of every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maskcls.models import prefix
from maskcls.models.backbones import Backbone, create_backbone
from maskcls.models.prefix import Prefix
from maskcls.recipe import N_STAGES

FAMILIES = {
    "resnet10t": 64,
    "resnext50_32x4d": 64,
    "densenet121": 64,
    "vgg11_bn": 64,
    "efficientnet_b0": 64,
    "mobilenetv3_small_050": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 224,
    "regnety_002": 64,
}


def backbone(name: str, frozen_stages: int) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, weights="none", frozen_stages=frozen_stages, image_size=FAMILIES[name])


LARGE = ("vgg11_bn", "swin_tiny_patch4_window7_224", "resnext50_32x4d", "densenet121", "efficientnet_b0")
"""Many seconds each, the first two a minute."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.soak] if name in LARGE else []) for name in FAMILIES]
)
def test_prefix_and_rest_are_the_backbone_to_the_bit(name: str) -> None:
    size = FAMILIES[name]
    n = 16 if size == 64 else 4
    images = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )
    cut_somewhere = False
    model = backbone(name, 0).model
    for frozen_stages in range(1, N_STAGES + 1):
        made = Backbone(model, frozen_stages).eval()
        cut = Prefix.of(made, size)
        if cut is None:
            continue
        cut_somewhere = cut_somewhere or frozen_stages < N_STAGES
        with torch.no_grad():
            assert torch.equal(cut.rest(cut.features(images, n)), made(images)), frozen_stages
    assert cut is not None, "all five stages frozen, nothing is left to run"
    assert cut_somewhere


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_what_is_trained_has_the_same_gradients_with_and_without_the_cut(name: str) -> None:
    size = FAMILIES[name]
    images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )
    made = backbone(name, 2).train()
    cut = Prefix.of(made, size)
    assert cut is not None
    given = []
    for run in (made, lambda given: cut.rest(cut.features(given, 16))):
        torch.manual_seed(2)
        made.zero_grad()
        run(images).square().sum().backward()
        given.append([parameter.grad for parameter in made.parameters() if parameter.requires_grad])
    assert all(torch.equal(whole, apart) for whole, apart in zip(*given, strict=True))


def test_a_backbone_that_cannot_be_run_from_its_cut_on_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forward pass does something between its modules that neither side of the cut knows of."""
    monkeypatch.setattr(prefix, "_one_function", {})
    made = backbone("resnet10t", 2)
    plain: Any = made.model.forward_features
    monkeypatch.setattr(made.model, "forward_features", lambda images: plain(images * images.mean()))
    assert Prefix.of(made, 64) is None


def test_nothing_frozen_has_no_prefix() -> None:
    assert Prefix.of(backbone("resnet10t", 0), 64) is None


def test_memory_that_is_short_while_the_cut_is_tried_out_is_raised_and_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray reuses a worker: all later trials in it would run without the cut."""
    monkeypatch.setattr(prefix, "_one_function", {})
    made = backbone("resnet10t", 2)
    with monkeypatch.context() as short:
        short.setattr(made.model, "forward_features", lambda images: torch.empty(2**50, dtype=torch.uint8))
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            Prefix.of(made, 64)
    assert Prefix.of(made, 64) is not None
