"""The benchmark of growth runs and records what it measured; the pixels are there once, however many processes hold them."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import data_growth
from tests.doors import call


@pytest.mark.timeout(300)
def test_growth_measures_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_growth, "DRAWN_PEOPLE", 12)
    out = tmp_path / "growth.json"
    sizes = ["--photos", "84", "--photos", "168", "--processes", "1", "--processes", "2"]
    said = call(data_growth.main, *sizes, "--rounds", "1", "--image-size", "64", "--out", out)
    assert said.status == 0, said.err
    results = json.loads(out.read_text())["results"]
    assert set(results["photos"]) == {"84", "168"}
    one, two = (results["trials"][number] for number in ("1", "2"))
    store_mb = 168 * 64 * 64 * 3 / 1e6
    assert two["store_pss_mb"] < 1.6 * store_mb, "two processes hold the pixels twice"
    assert two["rss_mb"] > one["rss_mb"]
