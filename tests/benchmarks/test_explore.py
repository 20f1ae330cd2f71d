"""The benchmark of exploring runs, and its record has what it must have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import call_module


@pytest.mark.soak
def test_exploring_is_measured_and_recorded(tmp_path: Path) -> None:
    out = tmp_path / "explore.json"
    said = call_module("tests.benchmarks.explore", "--people", 6, "--width", 48, "--height", 64, "--out", out)
    assert said.status == 0, said.err
    record = json.loads(out.read_text())
    (measured,) = record["results"].values()
    assert list(record["results"]) == ["exploring 42 photos"]
    assert measured["n"] == len(measured["values"]) == 1
    settings = record["settings"]
    assert (settings["photos"], settings["width_px"], settings["height_px"], settings["data"]) == (
        42,
        48,
        64,
        "enlarged demo faces",
    )
    assert 0 < settings["page_mb"] < 10
