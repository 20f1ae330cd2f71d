"""The benchmark of frozen stages runs, prints and records its measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.benchmarks import stages
from tests.commands import call


@pytest.mark.soak
def test_stages_measures_and_records(tmp_path: Path) -> None:
    out = tmp_path / "stages.json"
    said = call(stages.main, "--image-size", "32", "--batch-size", "16", "--steps", "2", "--rounds", "2", "--out", out)
    assert said.status == 0, said.err
    results = json.loads(out.read_text())["results"]
    sides = {side: [of["values"] for of in results[side]] for side in stages.SIDES}
    assert all(len(values) == 6 and all(len(of) == 2 and min(of) > 0 for of in values) for values in sides.values())
    evenly = [sum(of[i] for of in sides["plain"]) / sum(of[i] for of in sides["later"]) for i in range(2)]
    assert all(math.isclose(a, b) for a, b in zip(results["plain / later, evenly"]["values"], evenly, strict=True))
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == list("012345")
    assert lines[-1].endswith("n = 2")
    assert max(sides["later"][5]) < min(sides["plain"][5]), "nothing is computed but the head"
