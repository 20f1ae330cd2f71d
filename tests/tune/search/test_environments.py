"""A search as a user starts it, on machines that lack what Ray or a library takes for granted."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import ROOT, DemoFaces
from tune.runs.local_ray.gpus import local_gpus

UID = 12345
"""Of no entry in /etc/passwd."""
AS_NOBODY_KNOWN = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
FULL_SHM = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh")
DEAD_PROXY = "http://127.0.0.1:9"  # the port of `discard`, where nothing listens
LONG = "/" + "/".join(["a-long-folder-for-temporary-files"] * 4)
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user or mount")
pytestmark = pytest.mark.soak


@pytest.fixture
def faces(demo_faces: DemoFaces) -> Iterator[Path]:
    """Drawn faces where every user may read them, in a folder where every user may write; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield shutil.copytree(demo_faces(24, 4), folder / "faces")
    shutil.rmtree(folder)


def searched(
    faces: Path, variables: dict[str, str | None], before: tuple[str, ...] = (), *options: str
) -> subprocess.CompletedProcess[str]:
    """One small trial by the real command, with environment variables set, or taken away where they are None."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    words = [*before, sys.executable, "-m", "tune.search", "--space", "freezing", "--data", str(faces)]
    words += ["--weights", "none", "--trials", "1", "--finalists", "0", "--epochs", "1", "--image-size", "32"]
    words += ["--set", "backbone=test_resnet", "--runs", str(faces.parent / "runs"), "--name", "one"]
    words += ["--cache", str(faces.parent / "cache"), *options]
    given = {name: value for name, value in environment.items() if value is not None}
    # In a folder of its own: a library may take the current one for a home.
    (faces.parent / "here").mkdir(exist_ok=True)
    (faces.parent / "here").chmod(0o777)
    return subprocess.run(
        words, env=given, cwd=faces.parent / "here", capture_output=True, text=True, timeout=600, check=False
    )


def may_run(before: tuple[str, ...]) -> bool:
    """Whether whoever runs `before` may start this interpreter again; it may lie in a home of root's."""
    again = "import os, sys; sys.exit(not os.access(sys.executable, os.X_OK))"
    return subprocess.run([*before, sys.executable, "-c", again], check=False).returncode == 0


@pytest.mark.parametrize(
    ("variables", "before"),
    [
        pytest.param({"HOME": None}, (), id="no HOME"),
        pytest.param({"HOME": "/proc"}, (), id="a HOME that can't be written"),
        pytest.param({"HOME": "/nowhere"}, (), id="a HOME that is not there"),
        pytest.param({"HOME": None, "USER": None, "LOGNAME": None}, AS_NOBODY_KNOWN, id="no entry", marks=NEEDS_ROOT),
        pytest.param({"TMPDIR": LONG}, (), id="a TMPDIR that is too long, and not there"),
        pytest.param({"RAY_TMPDIR": LONG}, (), id="a RAY_TMPDIR that is too long"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "3"}, (), id="a GPU on a machine without"),
        pytest.param({"http_proxy": DEAD_PROXY, "HTTPS_PROXY": DEAD_PROXY}, (), id="a proxy that does not answer"),
        pytest.param({}, FULL_SHM, id="a /dev/shm without room", marks=NEEDS_ROOT),
    ],
)
def test_it_simply_works(variables: dict[str, str | None], before: tuple[str, ...], faces: Path) -> None:
    if variables.get("CUDA_VISIBLE_DEVICES") and local_gpus():
        pytest.skip("this machine has GPUs")
    if before == AS_NOBODY_KNOWN and not may_run(before):
        pytest.skip(f"another user may not run {sys.executable}")
    done = searched(faces, variables, before)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert (faces.parent / "runs" / "one" / "best" / "bundle.json").exists()
    assert list((faces.parent / "here").iterdir()) == []


def test_a_busy_port_is_passed_over(faces: Path) -> None:
    with ExitStack() as stack:
        taken = stack.enter_context(socket.socket())
        try:
            taken.bind(("127.0.0.1", 8265))  # of Ray's dashboard
            taken.listen()
        except OSError:
            pass  # somebody else has it
        done = searched(faces, {})
    assert done.returncode == 0, done.stderr
    assert "Ray's dashboard: http://127.0.0.1:" in done.stdout
    assert "Ray's dashboard: http://127.0.0.1:8265 " not in done.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RAY_ADDRESS": "127.0.0.1:1"}, "Ray at 127.0.0.1:1 cannot be reached, which RAY_ADDRESS names: "),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "Ray could not be started here: "),
    ],
)
def test_a_start_that_fails_is_one_message_and_leaves_the_name_free(
    variables: dict[str, str | None], message: str, faces: Path
) -> None:
    refused = searched(faces, variables)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (faces.parent / "runs" / "one").exists()
