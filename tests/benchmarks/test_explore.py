"""The benchmark of exploring runs, and its record has what it must have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import report


def test_exploring_is_measured_and_recorded(tmp_path: Path) -> None:
    out = tmp_path / "explore.json"
    call = [
        sys.executable,
        "-m",
        "tests.benchmarks.explore",
        "--people",
        "6",
        "--width",
        "48",
        "--height",
        "64",
        "--out",
        str(out),
    ]
    done = subprocess.run(call, capture_output=True, text=True, cwd=report.ROOT, check=False)
    assert done.returncode == 0, done.stderr
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
