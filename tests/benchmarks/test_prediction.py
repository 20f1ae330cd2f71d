"""The benchmark of prediction runs and records its measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import prediction
from tests.commands import call


@pytest.mark.soak
def test_prediction_measures_and_records(tmp_path: Path) -> None:
    out = tmp_path / "prediction.json"
    words = [
        "--photos",
        "21",
        "--image-size",
        "32",
        "--rounds",
        "2",
        "--latencies",
        "5",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--out",
        out,
    ]
    said = call(prediction.main, *words)
    assert said.status == 0, said.err
    assert "p / limit: median" in said.out
    record = json.loads(out.read_text())
    assert (record["settings"]["photos"], record["settings"]["threads"], record["settings"]["device"]) == (21, 1, "cpu")
    results = record["results"]
    p, d, f, most = (
        results[name]["values"] for name in (prediction.PREDICT, prediction.DECODE, prediction.FORWARD, "limit")
    )
    assert len(p) == len(d) == len(f) == 2
    assert all(
        math.isclose(1 / limit, 1 / decode + 1 / forward) for limit, decode, forward in zip(most, d, f, strict=True)
    )
    assert results["p / limit"]["values"] == [rate / limit for rate, limit in zip(p, most, strict=True)]
    latency = results["latency, s"]
    assert latency["n"] == 5
    assert min(latency["values"]) <= latency["median"] <= latency["p95"] <= max(latency["values"])
    assert results["the whole command, s"]["mean"] > 0


def test_on_a_gpu_the_slower_part_is_the_limit() -> None:
    assert prediction.limit(300.0, 600.0, "cuda:0") == 300
    assert prediction.limit(300.0, 600.0, "cpu") == pytest.approx(200)
