"""The benchmark of validation's arithmetic runs, rounds as it says, and leaves the model as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.benchmarks import precision
from tests.commands import call
from tests.conftest import DemoFaces


def test_what_is_rounded_has_ten_bits_of_mantissa() -> None:
    step = 2.0**-10
    given = torch.tensor([1.0, 1 + step, 1 + 0.49 * step, 1 + 0.5 * step, -3.0, 0.0, 1e30])
    rounded = precision.to_tf32(given)
    assert rounded[:6].tolist() == [1.0, 1 + step, 1.0, 1 + step, -3.0, 0.0]
    assert rounded[6].item() == pytest.approx(1e30, rel=step)


def test_inside_the_block_layers_multiply_rounded_numbers() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 8)
    inputs, before = torch.randn(4, 64), layer.weight.detach().clone()
    exact = layer(inputs)
    with precision.rounded_to_tf32(torch.nn.Sequential(layer)):
        expected = torch.nn.functional.linear(precision.to_tf32(inputs), precision.to_tf32(before), layer.bias)
        assert torch.equal(layer(inputs), expected)
        assert not torch.equal(layer(inputs), exact)
    assert torch.equal(layer.weight, before)
    assert torch.equal(layer(inputs), exact)


def test_it_measures_and_records(tmp_path: Path, demo_faces: DemoFaces) -> None:
    small = [
        "--backbones",
        "test_resnet",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--weights",
        "none",
        "--threads",
        "1",
    ]
    places = ["--data", demo_faces(18, 1), "--cache", tmp_path / "cache", "--out", tmp_path / "precision.json"]
    said = call(precision.main, *small, *places)
    assert said.status == 0, said.err
    assert "bfloat16: |F1 - float32|, mean " in said.out
    results = json.loads((tmp_path / "precision.json").read_text())["results"]
    assert set(results) == {"tf32", "bfloat16"}
    (tf32,), (bfloat16,) = results["tf32"], results["bfloat16"]
    assert 0 < tf32["log_p_difference"] < bfloat16["log_p_difference"]
    assert tf32["photos"] == bfloat16["photos"] > 0
