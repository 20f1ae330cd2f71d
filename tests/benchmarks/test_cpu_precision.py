"""The benchmark of the CPU's precisions runs and records its measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import cpu_precision
from tests.commands import call


@pytest.mark.soak
def test_both_precisions_are_measured_and_recorded(tmp_path: Path) -> None:
    out = tmp_path / "precision.json"
    words = ("--backbones", "test_resnet,test_convnext", "--image-size", 32, "--steps", 1, "--rounds", 2, "--out", out)
    said = call(cpu_precision.main, *words)
    assert said.status == 0, said.err
    assert "| test_convnext | " in said.out
    for values in json.loads(out.read_text())["results"].values():
        ratios = [b / f for f, b in zip(values["float32"]["values"], values["bfloat16"]["values"], strict=True)]
        assert values["ratio"]["values"] == ratios
