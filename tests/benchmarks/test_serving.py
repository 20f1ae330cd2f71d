"""The benchmark of the service runs and records its measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import serving
from tests.commands import call


@pytest.mark.soak
def test_the_service_is_measured_beside_its_parts(tmp_path: Path) -> None:
    out = tmp_path / "serving.json"
    words = ("--backbone", "test_resnet", "--image-size", 32, "--seconds", 0.2, "--rounds", 2, "--device", "cpu")
    said = call(serving.main, *words, "--out", out)
    assert said.status == 0, said.err
    results = json.loads(out.read_text())["results"]
    d, f, most = (results[name]["values"] for name in (serving.DECODE, serving.FORWARD, serving.LIMIT))
    assert most == [pytest.approx(1 / (1 / decode + 1 / forward)) for decode, forward in zip(d, f, strict=True)]
    for name in ("batches", "one by one"):
        for clients in serving.CLIENTS:
            loads = results[f"{name}, {clients}"]
            assert [each["failed"] for each in loads] == [{}, {}]
            assert all(len(each["latencies_s"]) >= clients for each in loads)
    assert "batches, 64 clients: / limit median" in said.out
