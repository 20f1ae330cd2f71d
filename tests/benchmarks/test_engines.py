"""The benchmark of the engines runs and records its measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import call


@pytest.mark.soak
def test_engines_are_measured_side_by_side(tmp_path: Path) -> None:
    """Long by torch's export."""
    pytest.importorskip("onnxscript", reason="the extra `onnx-export`")
    from tests.benchmarks import engines

    out = tmp_path / "engines.json"
    words = ("--backbone", "test_resnet", "--image-size", 32, "--blocks", 1, "--singles", 3, "--rounds", 2, "--int8")
    said = call(engines.main, *words, "--out", out)
    assert said.status == 0, said.err
    results = json.loads(out.read_text())["results"]
    for what in ("blocks of 64", "one at a time"):
        torch, onnx = (results[f"{name}, {what}"]["values"] for name in ("torch", "onnx"))
        assert results[f"onnx / torch, {what}"]["values"] == [a / b for a, b in zip(onnx, torch, strict=True)]
        assert results[f"int8 / torch, {what}"]["n"] == 2
    assert "onnx / torch, blocks of 64: median" in said.out
