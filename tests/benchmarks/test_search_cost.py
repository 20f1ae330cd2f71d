"""The benchmark of the search's own cost runs both sides to their ends, and records its measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import search_cost
from tests.commands import call


@pytest.mark.soak
@pytest.mark.timeout(600)  # a dozen actors start, one after the other
def test_search_cost_measures_and_records(tmp_path: Path) -> None:
    out = tmp_path / "search_cost.json"
    words = [
        "--trials",
        "3",
        "--epochs",
        "4",
        "--rounds",
        "1",
        "--default-rounds",
        "1",
        "--space",
        "freezing",
        "--suggestions",
        "2",
    ]
    words += ["--part", "rate", "--part", "growth", "--part", "scale", "--at-a-time", "2", "--taken", "60"]
    said = call(search_cost.main, *words, "--size", "12", "--out", out)
    assert said.status == 0, said.err
    assert "tune.search / plain Ray Tune: median" in said.out
    assert "12 trials" in said.out
    record = json.loads(out.read_text())
    assert record["settings"]["trials"] == 3
    assert set(record["settings"]["versions"]) == {"ray", "optuna"}

    rate = record["results"]["rate"]
    ours, plain, defaults = (
        rate["trials_per_second"][name] for name in (search_cost.OURS, search_cost.PLAIN, search_cost.DEFAULTS)
    )
    assert (ours["n"], plain["n"], defaults["n"]) == (1, 1, 1)
    ratios = rate["tune.search / plain Ray Tune"]["values"]
    assert all(math.isclose(a / b, r) for a, b, r in zip(ours["values"], plain["values"], ratios, strict=True))
    assert all(1 <= epochs <= 4 for side in rate["epochs_per_trial"].values() for epochs in side)

    sizes = record["results"]["growth"]["freezing"]
    assert list(sizes) == ["12"]
    for figures in sizes.values():
        assert figures["rss_mb"] >= figures["pss_mb"] > 0
        measured = figures["seconds"]
        assert (
            measured["suggestion"]["n"]
            == measured["plain Optuna's suggestion"]["n"]
            == measured["leaderboard, written"]["n"]
            == 2
        )
        assert measured["result: searcher"]["n"] == 2 * 5
        assert min(value for what in measured.values() for value in what["values"]) >= 0

    scale = record["results"]["scale"]["2"]
    assert (scale["trials"], scale["results"]) == (2, 2 * 30)
    assert min(scale[name] for name in ("results_per_second", "driver_ms_per_result", "driver_cores")) > 0
    assert scale["workers_mb"] >= scale["worker_mb"] > 0
