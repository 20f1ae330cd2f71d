"""The usage of a command is that of all its processes, also of those that outlive their parents, and of no others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.process_tree import usage

MB = 10**6
WORKER = f"""
import time
held = bytearray(b"x") * {100 * MB}
until = time.process_time() + 1.5
while time.process_time() < until:
    pass
time.sleep(2)
"""
LEAVER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, sys.argv[1]])
time.sleep(2)
"""
COMMAND = """
import subprocess, sys, time
subprocess.Popen([sys.executable, *sys.argv[1:]]).wait()
time.sleep(4)
"""


@pytest.mark.soak
def test_a_process_whose_parent_has_ended_still_belongs_to_the_command(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.py" for name in ("command", "leaver", "worker")}
    for name, text in (("command", COMMAND), ("leaver", LEAVER), ("worker", WORKER)):
        files[name].write_text(text)
    taken = usage([sys.executable, *map(str, files.values())], tmp_path / "log")
    assert taken.seconds >= 6
    assert 1.4 <= taken.cpu_s < 5
    assert taken.machine_cpu_s > 1
    assert 100 < taken.peak_pss_mb < 300
    assert taken.peak_processes == 3


def test_a_command_that_fails_is_quoted_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)ended with 1:\n.*ValueError: too small"):
        usage([sys.executable, "-c", "raise ValueError('too small')"], tmp_path / "log")
