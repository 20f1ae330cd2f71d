"""A user's own tune.py in the current folder: what shadows a package, and that Ray's workers pass it by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune.runs import worker_imports

ROOT = Path(__file__).parents[3]


def test_a_module_or_a_package_of_the_name_shadows_ours(tmp_path: Path) -> None:
    assert not worker_imports.is_shadowed("tune", tmp_path)
    (tmp_path / "tune").mkdir()
    assert not worker_imports.is_shadowed("tune", tmp_path), "a plain folder gives way to a package"
    (tmp_path / "tune" / "__init__.py").touch()
    assert worker_imports.is_shadowed("tune", tmp_path)
    (tmp_path / "search_spaces.py").touch()
    assert worker_imports.is_shadowed("search_spaces", tmp_path)
    assert not any(worker_imports.is_shadowed(package, ROOT) for package in worker_imports.PACKAGES)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_workers_pass_by_files_of_the_current_folder(tmp_path: Path, ray_cluster: str) -> None:
    for package in worker_imports.PACKAGES:
        (tmp_path / f"{package}.py").write_text("raise RuntimeError('a foreign file was imported')\n")
    (tmp_path / "driver").mkdir()
    driver = tmp_path / "driver" / "drive.py"  # in a folder of its own: a script's folder comes first, too
    driver.write_text("""
import os
import ray
from tune import durations
from tune.runs import cluster
from maskcls import text
import search_spaces

with cluster.connected(os.environ["RAY_ADDRESS"]):
    remote = [ray.remote(function) for function in (durations.duration, text.first_lines, search_spaces.names)]
    print(ray.get([remote[0].remote(40), remote[1].remote(["a"], 1), remote[2].remote()])[:2])
""")
    done = subprocess.run(
        [sys.executable, str(driver)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray_cluster},
    )
    assert done.stdout == "['40 s', ['  a']]\n", done.stderr
