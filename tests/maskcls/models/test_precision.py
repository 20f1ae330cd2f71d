"""Which arithmetic `auto` is, by device and backbone."""

from __future__ import annotations

import pytest
import timm
import torch

from maskcls.models.precision import resolve_precision

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("backbone", "with_units"),
    [
        ("resnet10t", BFLOAT16),
        ("regnety_002", BFLOAT16),  # its convolutions are in groups of several channels
        ("vit_tiny_patch16_224", BFLOAT16),
        ("mobilenetv3_small_050", FLOAT32),
        ("convnext_atto", FLOAT32),
    ],
)
def test_a_cpu_trains_in_bfloat16_if_it_has_matrix_units_and_the_backbone_uses_them(
    backbone: str, with_units: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm.create_model(backbone, pretrained=False)
    for units, expected in ({"amx_bf16": True}, with_units), ({"avx512_bf16": True}, FLOAT32), ({}, FLOAT32):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units)
        assert resolve_precision("auto", "cpu", model) == expected
        assert resolve_precision("float32", "cpu", model) == FLOAT32
        assert resolve_precision("bfloat16", "cpu", model) == BFLOAT16
