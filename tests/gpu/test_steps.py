"""A step that fails, hangs or lacks a package is recorded, and the others run; the table says what came out.

The steps here are a few lines without torch; the real ones are tried in `test_script.py`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.benchmarks import report
from tests.gpu import table
from tests.gpu.environment import Environment
from tests.gpu.findings import Findings
from tests.gpu.steps import STEPS, Ended, State, Step, is_success, run_step

GOOD = """
def measure(bench, findings):
    findings.measured("speed", 1234.5, "photos/s", f"on {bench.device}")
    findings.check("the same bits", True)
"""
WRONG = """
def measure(bench, findings):
    findings.check("the same bits", False, 3, "tensors")
"""
FAILING = """
def measure(bench, findings):
    findings.measured("first", "there")
    raise ValueError("no such kernel")
"""
HANGING = """
import subprocess, sys, time
def measure(bench, findings):
    findings.measured("first", "there")
    child = "import os, time; os.setsid(); time.sleep(60)"
    started = subprocess.Popen([sys.executable, "-c", child])
    (bench.folder / "child").write_text(str(started.pid))
    time.sleep(60)
"""


def ended(
    folder: Path, text: str, *, limit_s: float = 60, remaining_s: float = 60, missing: tuple[str, ...] = ()
) -> Ended:
    """Run the text as a step of its own module."""
    name = f"step_{len(list(folder.glob('step_*.py')))}"
    (folder / f"{name}.py").write_text(text)
    step = Step(name, name, limit_s, ("optuna",))
    options = ["--device", "cpu"]
    return run_step(step, folder, python=sys.executable, options=options, missing=missing, remaining_s=remaining_s)


@pytest.fixture(autouse=True)
def steps_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_what_a_step_finds_and_how_it_ends(tmp_path: Path) -> None:
    good, wrong, failing = (ended(tmp_path, text) for text in (GOOD, WRONG, FAILING))
    assert (good.state, good.reason) == (State.DONE, "")
    assert [(one.what, one.value, one.unit, one.holds, one.note) for one in good.findings] == [
        ("speed", 1234.5, "photos/s", None, "on cpu"),
        ("the same bits", "", "", True, ""),
    ]
    assert good.peak_pss_gb > 0
    assert (wrong.state, wrong.reason) == (State.WRONG, "the same bits")
    assert failing.state == State.FAILED
    assert failing.reason == "ValueError: no such kernel"
    assert "Traceback (most recent call last):" in failing.tail
    assert [one.what for one in failing.findings] == ["first"]
    assert is_success([good])
    assert not is_success([good, wrong])
    assert not is_success([failing])


@pytest.mark.slow
def test_a_step_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    hanging = ended(tmp_path, HANGING, limit_s=6)
    assert time.monotonic() - began < 40
    assert hanging.state == State.TIMED_OUT
    assert [one.what for one in hanging.findings] == ["first"]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10  # a process that was killed may take a moment to go
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child), "it left the step's session"


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_cannot_run_is_left_out_and_what_has_no_time_is_not_begun(tmp_path: Path) -> None:
    lacking = ended(tmp_path, GOOD, missing=("optuna", "ray"))
    assert (lacking.state, lacking.reason, lacking.findings) == (State.LEFT_OUT, "not installed: optuna", ())
    late = ended(tmp_path, GOOD, remaining_s=3.2)
    assert (late.state, late.reason) == (State.NOT_BEGUN, "3 s were left")
    assert not is_success([lacking, late])
    assert is_success([lacking, late, Ended("fits", State.DONE)])


def test_every_step_has_its_module_and_a_limit() -> None:
    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names) == 11
    for step in STEPS:
        assert (report.ROOT / f"{step.module.replace('.', '/')}.py").exists()
        assert 10 < step.limit_s <= 150


def test_the_table_is_read_at_80_columns_and_the_json_has_all(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "speed.json")
    findings.measured("a name | that is longer than its column allows, by far", 123456.7, "photos/s", "a note")
    findings.check("the same bits", False, 3, "tensors")
    findings.check("finite", True)
    steps = [
        Ended("speed", State.WRONG, 12.34, "the same bits", tuple(findings.found)),
        Ended("search", State.LEFT_OUT, reason="not installed: ray"),
    ]
    gpu = {"name": "NVIDIA H200", "memory_gb": 150.1, "count": 1, "cuda": "13.0", "cudnn": 91002}
    missing = {"ray": "ModuleNotFoundError: " + "No module named 'ray' " * 9}
    environment = Environment("python", {"torch": "2.11.0"}, missing, gpu, ["albucore.whl: ERROR"])
    record = {**report.environment(), "settings": {"device": "cuda", "minutes": 8.0}}
    table.write(tmp_path, record, environment, steps)
    text = (tmp_path / "gpu.md").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "1 x NVIDIA H200, 150.1 GB, CUDA 13.0" in text
    assert "CPU TAKES" not in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[2:] == [
        ["**speed**", "wrong, 12.3 s"],
        ["a name / that is longer than its column allow…", "123,457 photos/s"],
        ["the same bits", "3 tensors; FAILS"],
        ["finite", "holds"],
        ["**search**", "left out"],
    ]
    assert "- search: not installed: ray\n" in text
    assert "- albucore.whl: ERROR\n" in text
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["steps"][0]["findings"][0]["note"] == "a note"
    assert content["steps"][1]["state"] == "left out"
    assert content["environment"]["gpu"] == gpu
