"""What a command takes is that of all its processes, also of those that outlive their parents, and nobody else's."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks.process_tree import usage

MB = 10**6
GRANDCHILD = f"""
import time
held = bytearray(b"x" * {100 * MB})
until = time.process_time() + 1.5
while time.process_time() < until:
    pass
time.sleep(2)
"""
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", '''
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}])
time.sleep(1.5)
'''])
time.sleep(6)
"""


def test_a_process_whose_parent_has_ended_is_still_the_commands(tmp_path: Path) -> None:
    taken = usage([sys.executable, "-c", PARENT], tmp_path / "log")
    assert taken.seconds >= 6
    assert 1.4 <= taken.cpu_s < 5
    assert taken.machine_cpu_s > 1
    assert 100 < taken.peak_pss_mb < 300
    assert taken.peak_processes == 3


def test_a_command_that_fails_tells_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"ended with 1:\n.*ValueError: too small"):
        usage([sys.executable, "-c", "raise ValueError('too small')"], tmp_path / "log")
