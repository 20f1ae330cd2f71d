"""Energy by the kernel's counters and nvidia-smi's power, read from files and a program as the kernel and NVIDIA have
them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from maskcls.machine import EnergyMeter, metered


def package(powercap: Path, name: str, counter: int) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{counter}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    return folder / "energy_uj"


@pytest.fixture
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))


@pytest.mark.usefixtures("no_gpu")
def test_packages_are_added_up_and_a_counter_may_wrap(tmp_path: Path) -> None:
    first, second = package(tmp_path, "intel-rapl:0", 5_000_000), package(tmp_path, "intel-rapl:1", 262_143_000_000)
    package(tmp_path, "intel-rapl:0:0", 0)  # a part of the first one, which counts with it
    meter = EnergyMeter(tmp_path)
    first.write_text("9000000\n")
    second.write_text("1000000\n")
    meter.sample()
    assert meter.cpu_j == pytest.approx(4 + 0.32885 + 1)
    first.write_text("10000000\n")
    meter.sample()
    assert meter.cpu_j == pytest.approx(5 + 0.32885 + 1)
    assert meter.gpu_j is None


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_that_tells_nothing_has_no_energy(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    with metered(meter):
        meter.sample()
    assert (meter.is_any, meter.cpu_j, meter.gpu_j) == (False, None, None)


def test_power_of_all_gpus_counts_for_the_time_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 100.00\necho 50.50\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    began = time.monotonic()
    meter = EnergyMeter(tmp_path / "none")
    time.sleep(0.2)
    meter.sample()
    assert meter.gpu_j is not None
    assert 0.2 * 150.5 <= meter.gpu_j <= (time.monotonic() - began) * 150.5
    program.write_text("#!/bin/sh\necho '[N/A]'\n")
    before = meter.gpu_j
    meter.sample()
    assert meter.gpu_j == before
