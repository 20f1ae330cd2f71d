"""The benchmark of loading runs, and its record has what it must have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import report
from tests.commands import call_module


def test_loading_measures_and_records(tmp_path: Path) -> None:
    out = tmp_path / "loading.json"
    said = call_module("tests.benchmarks.loading", "--photos", 42, "--image-size", 32, "--repeats", 2, "--out", out)
    assert said.status == 0, said.err
    assert "decoding into the pixel store" in said.out
    record = json.loads(out.read_text())
    assert record["command"].startswith("python -m tests.benchmarks.loading --photos 42")
    assert record["settings"] == {"photos": 42, "image_size": 32, "data": "demo faces"}
    assert record["hardware"]["cores"] >= 1
    assert {"python", "torch", "numpy"} <= set(record["versions"])
    assert len(record["commit"]) >= 7
    for measured in record["results"].values():
        assert measured["n"] == len(measured["values"]) == 2
        assert min(measured["values"]) > 0


def test_summary_gives_mean_and_spread() -> None:
    found = report.summary([1.0, 2.0, 3.0])
    assert (found["n"], found["mean"], found["sd"]) == (3, 2.0, pytest.approx(1.0))
    assert report.summary([4.0])["sd"] == 0
