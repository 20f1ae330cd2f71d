"""What an installation without torch needs: the list says the same as pyproject.toml, and is enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest

from maskcls.serving.predictor import Predictor
from tests.conftest import ROOT, new_bundle, random_classifier

REQUIREMENTS = ROOT / "deploy" / "onnx" / "requirements.txt"


def listed() -> list[str]:
    return [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]


def test_the_list_has_pyprojects_bounds_and_all_of_the_service() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = [*project["dependencies"], *extras["onnx"], *extras["web"]]
    assert set(listed()) <= set(known)
    assert {*extras["onnx"], *extras["web"]} <= set(listed())
    assert not [line for line in listed() if line.startswith(("torch", "timm", "ray", "optuna"))]


IMPORTS = """
import sys
from importlib.metadata import packages_distributions
import maskcls.predict, maskcls.serve
import maskcls.serving.onnx_engine, maskcls.serving.predicting.session, maskcls.serving.predictor
import maskcls.serving.web.app, maskcls.serving.web.server
known = packages_distributions()
print(*{one.lower() for name in sys.modules for one in known.get(name.partition(".")[0], ())})
"""


@pytest.mark.slow
def test_the_list_has_all_that_prediction_and_the_service_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    imported = subprocess.run([sys.executable, "-c", IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True)
    own = {name_of(line) for line in project["dependencies"]} & set(imported.stdout.split())
    assert own - {name_of(line) for line in listed()} <= {"pyarrow"}, "pandas imports it where it is installed"
    assert "torch" not in own


def name_of(line: str) -> str:
    """The distribution's name in a requirement."""
    return re.split(r"[^\w.-]", line)[0].lower()


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_fresh_environment_of_these_packages_predicts(tmp_path: Path, photo_kinds: list[Path]) -> None:
    """Needs the network: pip installs the packages of the list into an environment that has nothing else."""
    pytest.importorskip("onnxscript", reason="the extra `onnx-export`")
    from maskcls.serving.onnx_export import export_onnx

    bundle = new_bundle(tmp_path / "bundle", random_classifier("single", backbone="test_resnet", image_size=32))
    files = list(map(str, photo_kinds))
    export_onnx(bundle, files, np.arange(len(files)))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # setuptools writes into it
    for name in ("maskcls", "search_spaces", "tune"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for command in (
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source],
        [python, "-m", "pip", "--quiet", "install", "-r", REQUIREMENTS],
        [python, "-m", "pip", "--quiet", "install", "--no-deps", tmp_path / "maskcls-0.1.0-py3-none-any.whl"],
    ):
        subprocess.run(list(map(str, command)), check=True, env=environment)
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in files))
    words = ["--bundle", bundle, "--images", "list.txt", "--out", "s.csv", "--engine", "onnx"]
    command = [tmp_path / "venv" / "bin" / "maskcls", "predict", *words]
    subprocess.run(list(map(str, command)), check=True, env=environment, cwd=tmp_path)
    answers = [int(row.rpartition(",")[2]) for row in (tmp_path / "s.csv").read_text().splitlines()[1:]]
    assert answers == Predictor(bundle, "cpu").predict(files)["class"].tolist()
    done = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False, env=environment)
    assert done.returncode == 1
