"""Wheels that are carried along are installed beside the packages that are there, without a network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from tests.gpu.environment import prepare


def wheel(folder: Path, name: str, tag: str = "py3-none-any") -> None:
    """A wheel of one module whose version is 1.5."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.5.dist-info"
    files = {
        f"{name}.py": "__version__ = '1.5'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nRequires-Dist: not-to-be-found\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}\n"
        for path, text in files.items()
    )
    with zipfile.ZipFile(folder / f"{name}-1.5-{tag}.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)


@pytest.mark.soak
def test_wheels_join_what_is_there_and_what_is_missing_is_named(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheel(wheels, "carried")
    wheel(wheels, "foreign", "cp312-cp312-win_amd64")
    found = prepare(tmp_path / "work", wheels, ["carried", "foreign", "filelock", "pytest"])
    assert found.python == str(tmp_path / "work" / "venv" / "bin" / "python")
    assert found.versions["carried"] == "1.5"
    assert {"filelock", "pytest"} <= found.versions.keys(), "this interpreter's own, although it has a venv as well"
    assert found.missing == {"foreign": "ModuleNotFoundError: No module named 'foreign'"}
    (problem,) = found.problems
    assert problem.startswith("foreign-1.5-cp312-cp312-win_amd64.whl: ERROR: ")
    assert "not a supported wheel" in problem


def test_a_folder_without_wheels_is_said(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    found = prepare(tmp_path / "work", tmp_path / "wheels", ["json"])
    assert found.problems == [f"{tmp_path / 'wheels'} holds no wheels (*.whl)."]
