"""The benchmark of face detectors runs, and its record has what it must have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskcls.data.faces.detectors import DETECTORS, usable_detector
from tests.commands import call_module
from tests.maskcls.data.faces.real_faces import needs_real_faces


@needs_real_faces
@pytest.mark.skipif(usable_detector() is None, reason="no face detector can be used here")
def test_detectors_are_measured_and_recorded(tmp_path: Path) -> None:
    out = tmp_path / "faces.json"
    said = call_module("tests.benchmarks.face_crop", "--every", 90, "--out", out)
    assert said.status == 0, said.err
    record = json.loads(out.read_text())
    assert record["settings"]["photos"] == 42
    assert list(record["results"]) == [name for name, detector in DETECTORS.items() if not detector.why_not()]
    for name, measured in record["results"].items():
        assert measured["ms_per_photo"]["n"] == 1
        assert measured["found"]["normal"] == 1.0, name
        assert measured["wrong"] <= 1, name
        assert name in said.out
