"""How a search was made: its split, its drivers, its time and what failed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tune.made_run import made_run
from tests.tune.selection.small_run import small_run
from tune.report.origin import sections, session_seconds
from tune.runs.record import DataRecord, Session
from tune.runs.study import records


def test_the_split_is_counted_by_people_and_photos(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    data = DataRecord(photos=len(faces.photos), people=36, digest=faces.digest)
    made = sections(run, run.record().changed(data=data, split_digest=faces.split.digest), [])[0]
    assert (
        f"252 photos of 36 people (faces drawn by a program). Digest of the photos and labels: {faces.digest}" in made
    )
    rows = re.findall(r"<tr><td>(train|validation|holdout)</td><td>(\d+)</td><td>(\d+)</td>", made)
    assert rows == [(side, str(len(faces.split.side(side))), str(7 * len(faces.split.side(side)))) for side, *_ in rows]
    assert len(rows) == 3


def test_failures_are_counted_by_what_happened(tmp_path: Path) -> None:
    run = made_run(tmp_path, 12, message="ValueError: no such loss\nsecond line")
    (run.trial("0007") / "error.txt").write_text("Traceback\n  File x\nValueError: no such loss\n")
    found = "".join(sections(run, run.record(), records(run)))
    assert "<td>failed</td><td>1</td><td>0007</td><td>ValueError: no such loss</td>" in found
    assert "<td>diverged</td><td>1</td><td>0005</td><td>no message</td>" in found
    assert "second line" not in found
    assert "trial 0007: the end of its traceback" in found


def test_a_search_in_which_nothing_failed_does_not_speak_of_it(tmp_path: Path) -> None:
    run = made_run(tmp_path, 3)
    assert [one.heading for one in sections(run, run.record(), records(run))] == [
        "How it was made",
        "Where this comes from",
    ]


@pytest.mark.parametrize(
    ("began", "ended", "seconds"),
    [("2030-01-01T10:00:00+0000", "2030-01-01T10:01:30+0000", 90.0), ("2030-01-01T10:00:00+0000", "", 0.0)],
)
def test_a_driver_that_was_killed_has_no_time(began: str, ended: str, seconds: float) -> None:
    assert session_seconds(Session(began=began, ended=ended)) == seconds


def test_energy_is_said_where_a_session_knows_it(tmp_path: Path) -> None:
    run = made_run(tmp_path, 3)
    silent, known = Session(), Session(cpu_joules=7200, gpu_joules=36000)
    found = sections(run, run.record().changed(sessions=[silent]), [])[0]
    assert "Energy: the machine does not tell it." in found
    found = sections(run, run.record().changed(sessions=[silent, known]), [])[0]
    assert "2.0 Wh by the CPUs (RAPL) in 1 of 2 sessions; 10.0 Wh by the GPUs (nvidia-smi) in 1 of 2 sessions" in found
