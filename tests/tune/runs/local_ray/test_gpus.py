"""CUDA_VISIBLE_DEVICES counts only GPUs that are there, and one that is not there is named before a run is made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maskcls.errors import CallError
from tune.runs.local_ray.gpus import VISIBLE, local_gpus

LISTED = """GPU 0: NVIDIA H200 (UUID: GPU-11111111-2222-3333-4444-555555555555)
  MIG 1g.18gb     Device  0: (UUID: MIG-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee)
GPU 1: NVIDIA H200 (UUID: GPU-66666666-2222-3333-4444-555555555555)
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's tool, which lists two GPUs, one of them in parts."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 2),
        ("0,1", 2),
        (" 1 ", 1),
        ("GPU-6666", 1),
        ("MIG-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", 1),
        ("", 0),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("0,-1,1", 1),
    ],
)
def test_those_that_are_there_count(visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert local_gpus() == count


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("visible", ["2", "0,7", "GPU-9", "²", "\x1b[31m"])
def test_one_that_is_not_there_is_refused(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    with pytest.raises(CallError, match=r"this machine has 2 GPUs \(0, 1\)\. Name those .*, or unset it\.") as said:
        local_gpus()
    assert "\x1b" not in str(said.value)


def test_without_the_tool_the_drivers_devices_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv(VISIBLE, "0,1")
    assert local_gpus(tmp_path) == 0, "GPUs named on a machine that has none"
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert local_gpus(tmp_path) == 2
    monkeypatch.delenv(VISIBLE)
    assert local_gpus(tmp_path) == 2
