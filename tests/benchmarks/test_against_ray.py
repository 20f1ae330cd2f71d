"""The benchmark against plain Ray Tune runs both sides, on the same photos, and records what it measured."""

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import against_ray
from tests.doors import call


@pytest.mark.timeout(600)
def test_both_sides_run_and_are_recorded(tmp_path: Path) -> None:
    out = tmp_path / "against_ray.json"
    words = ["--case", "heads", "--trials", "2", "--epochs", "1", "--image-size", "32", "--rounds", "1", "--parallel", "1"]
    said = call(against_ray.main, *words, "--out", out)
    assert said.status == 0, said.out + said.err
    assert "wall time, s" in said.out
    record = json.loads(out.read_text())
    results = record["results"]
    ours, plain = (results["sides"][side] for side in (against_ray.OURS, against_ray.PLAIN))
    assert ours["epochs"]["values"] == plain["epochs"]["values"] == [2]
    assert all(len(results["trials"][side][0]) == 2 for side in (against_ray.OURS, against_ray.PLAIN))
    ratio = results[f"{against_ray.PLAIN} / {against_ray.OURS}"]["seconds"]["values"][0]
    assert math.isclose(ratio, plain["seconds"]["values"][0] / ours["seconds"]["values"][0])
    assert ours["peak_pss_mb"]["mean"] > 100
    assert not out.with_suffix(".rounds.jsonl").exists(), "what was kept meanwhile is of no use any more"


def test_a_case_that_there_is_not_is_refused(tmp_path: Path) -> None:
    said = call(against_ray.main, "--case", "all", "--out", tmp_path / "x.json")
    assert said.status == 2
    assert "--case is one of freezing, heads, nothing-frozen, but got 'all'." in said.err
