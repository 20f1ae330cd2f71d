"""The benchmark of prediction runs and records what it measured."""

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import prediction
from tests.doors import call


@pytest.mark.timeout(300)
def test_prediction_measures_and_records(tmp_path: Path) -> None:
    out = tmp_path / "prediction.json"
    words = ["--image-size", "32", "--photos", "20", "--rounds", "2", "--latencies", "3", "--threads", "1"]
    said = call(prediction.main, *words, "--device", "cpu", "--out", out)
    assert said.status == 0, said.err
    assert "p / limit: median" in said.out
    results = json.loads(out.read_text())["results"]
    p, d, f, ratios = (results[name]["values"] for name in (prediction.PREDICT, prediction.DECODE, prediction.FORWARD, prediction.RATIO))
    assert all(math.isclose(ratio, p_ * (1 / d_ + 1 / f_)) for p_, d_, f_, ratio in zip(p, d, f, ratios, strict=True))
    assert results["latency, s"]["n"] == 3


def test_the_limit_of_parts_that_overlap_and_of_parts_that_do_not() -> None:
    assert prediction.limit(300, 600, "cpu") == pytest.approx(200)
    assert prediction.limit(300, 600, "cuda:0") == 300
