"""The script tries itself on the CPU: a few steps in this process; all of them, by the command, for `make soak`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskcls.machine import set_threads
from maskcls.models.model import build_models
from maskcls.training.checkpoint import load
from maskcls.training.fit_data import FitData
from tests.benchmarks.report import ROOT
from tests.conftest import DemoFaces
from tests.gpu import bench, device, fits, memory, resume, speed
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings, read_findings
from tests.gpu.steps import STEPS, State


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_faces: DemoFaces) -> Bench:
    """One of the four networks."""
    sizes = dataclasses.replace(bench.SIZES["cpu"], networks=("test_resnet",), transformer_px=32)
    monkeypatch.setattr(bench, "SIZES", {"cpu": sizes})
    return Bench("cpu", tmp_path, demo_faces(18, 1))


@pytest.mark.soak
def test_fits_are_resumed_to_the_bit_go_on_without_memory_and_are_measured(small: Bench) -> None:
    threads = torch.get_num_threads()
    found = {}
    for step in (device, fits, resume, memory, speed):
        name = step.__name__.rpartition(".")[2]
        step.measure(small, Findings(small.folder / f"{name}.json"))
        found[name] = {one.what: one for one in read_findings(small.folder / f"{name}.json")}
    set_threads(threads)
    assert [one.what for each in found.values() for one in each.values() if one.holds is False] == []
    assert found["resume"].keys() == {"test_resnet: the same curve", "test_resnet: the same weights to the bit"}
    assert found["memory"]["its batches were cut"].value == 16
    assert found["speed"]["network"].value == "test_resnet, 32 px"
    assert float(found["speed"]["share of that limit"].value) > 0
    # Bits that differ are seen, and where: the second epoch of another fit.
    other = small.recipe("test_resnet", seed=1)
    data = FitData.of(small.dataset(), other)
    folder = fits.checkpoint(small, "other")
    list(fits.new_fit(small, other, data).epochs(folder))
    one, two = (
        load(fits.checkpoint(small, name), recipe, data.digest)
        for name, recipe in (("test_resnet", small.recipe("test_resnet")), ("other", other))
    )
    assert one is not None
    assert two is not None
    assert resume.same_curve(one, two) == (False, "from epoch 1 on")
    assert resume.same_weights(one, two)[0] is False


def test_operations_of_a_forward_pass_are_those_of_the_networks_paper() -> None:
    """He et al., "Deep Residual Learning", CVPR 2016, table 1: 1.8e9 products and sums, each counted once there."""
    recipe = Bench("cpu", Path()).recipe("resnet18", image_size=224)
    model = build_models(recipe, pretrained=False)[0]
    assert speed.forward_operations(model, 224) == pytest.approx(2 * 1.8e9, rel=0.02)


@pytest.mark.soak
def test_the_whole_script_runs_with_the_cpu_in_the_gpus_place(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--minutes", "20", "--out", str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert {each["step"]: each["state"] for each in content["steps"]} == {step.name: State.DONE for step in STEPS}
    table = (tmp_path / "gpu.md").read_text()
    assert table.strip() in done.stdout
    assert "THE CPU TAKES THE GPU'S PLACE" in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= 80
