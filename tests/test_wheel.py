"""The wheel in a fresh environment without the sources, called from a folder that has a tune.py of its own.

It needs pip and setuptools (pyproject.toml says which) in the environment of the tests, and no network: all other
packages come from that environment through a .pth file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("maskcls", "search_spaces", "tune")
FILES = ("pyproject.toml", "README.md", "LICENSE")
FOREIGN = "raise RuntimeError('a foreign file was imported')\n"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of a fresh environment into which a wheel of this tree was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools writes into it
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("maskcls-*.whl")
    shutil.rmtree(source)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    (site,) = (folder / "venv").glob("lib/python3*/site-packages")
    # A path alone: .pth files of that folder, such as an editable install's, are not read.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "maskcls"


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command without this tree on its import path; return what it wrote."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_wheel_works_in_any_folder(console: Path, tmp_path: Path) -> None:
    for name in SOURCES:
        (tmp_path / f"{name}.py").write_text(FOREIGN)
    assert run(console, "--version", cwd=tmp_path).startswith("maskcls 0.")
    run(console, "demo", "--out", "faces", "--persons", 30, cwd=tmp_path)
    assert "faces is fine." in run(console, "check", "--data", "faces", cwd=tmp_path)
    run(console, "explore", "--data", "faces", "--out", "look", cwd=tmp_path)
    small = ["--epochs", 1, "--image-size", 32, "--weights", "none", "--set", "backbone=lcnet_050", "--cache", "cache"]
    search = ["--space", "freezing", "--data", "faces", "--name", "first", "--trials", 2]
    said = run(console, "search", *search, *small, "--finalists", 2, "--repeats", 2, cwd=tmp_path)
    assert f"maskcls predict --bundle {tmp_path}/runs/first/best" in said, "as it was called"
    words = ["--bundle", "runs/first/best", "--images", "faces/eval/info.csv", "--out", "submission.csv"]
    run(console, "predict", *words, cwd=tmp_path)
    assert (tmp_path / "submission.csv").read_text().startswith("ImageID,ans\n")
    vary = ["--data", "faces", "--vary", "head=linear,mlp", "--seeds", 2]
    assert "Comparison finished." in run(console, "compare", *vary, *small, cwd=tmp_path)
    names = ", ".join(SOURCES)
    code = f"import {names}; print(*(package.__file__ for package in ({names})))"
    for file in run(console.parent / "python", "-P", "-c", code, cwd=tmp_path).split():
        assert file.startswith(str(console.parents[1])), "the sources had no part in it"
        assert Path(file).with_name("py.typed").exists(), "type checkers read its annotations"
