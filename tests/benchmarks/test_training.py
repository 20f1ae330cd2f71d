"""The benchmark of training runs and records its measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import training
from tests.commands import call


@pytest.mark.soak
def test_training_measures_and_records(tmp_path: Path) -> None:
    out = tmp_path / "training.json"
    words = [
        "--backbone",
        "test_resnet",
        "--image-size",
        "32",
        "--frozen-stages",
        "5",
        "--batch-size",
        "8",
        "--steps",
        "2",
        "--rounds",
        "2",
    ]
    said = call(training.main, *words, "--threads", "1", "--device", "cpu", "--out", out)
    assert said.status == 0, said.err
    assert "c/d: median" in said.out
    record = json.loads(out.read_text())
    assert record["settings"]["recipe"]["image_size"] == 32
    stored, fixed, ratios = (
        record["results"][name] for name in ("(c) training from the store", "(d) one batch in memory", "c/d")
    )
    assert stored["n"] == fixed["n"] == ratios["n"] == 2
    assert all(
        math.isclose(c / d, r) for c, d, r in zip(stored["values"], fixed["values"], ratios["values"], strict=True)
    )
