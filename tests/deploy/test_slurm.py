"""deploy/slurm.sh runs as Slurm would run it on two nodes, which are machines in namespaces of their own (root)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray.scripts.symmetric_run import symmetric_run

from tests.cluster.machines import Machine, cannot, lan, wait_until
from tests.conftest import DemoFaces
from tests.deploy.search_files import DEPLOY
from tune.runs.folder import SearchRun

SMALL = (
    "--trials 2 --epochs 1 --finalists 0 --weights none --image-size 32 --set head_width=8 --set backbone=test_resnet"
)
SLURM = {"SLURM_JOB_NODELIST": "nodes", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
SRUN = """#!/bin/sh
# Run here what `srun` would run on each node, and note the words for the other node.
while [ "${1#--}" != "$1" ]; do shift; done
printf '%s\\n' "$@" > "$HOME/words.new" && mv "$HOME/words.new" "$HOME/words"
exec "$@"
"""
SCONTROL = """#!/bin/sh
# `scontrol show hostnames 10.77.0.[1-2]`
[ "$1 $2 $3" = "show hostnames nodes" ] && printf '10.77.0.1\\n10.77.0.2\\n'
"""


def set_up(home: Path) -> Path:
    """Put into the home what the script expects, and in place of Slurm's commands those above; return the script."""
    scripts = home / "maskcls" / "bin"
    scripts.mkdir(parents=True)
    for name in ("maskcls", "ray", "python"):
        (scripts / name).symlink_to(Path(sys.executable).parent / name)
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    text = (DEPLOY / "slurm.sh").read_text()
    for old, new in (("--trials 100", SMALL), ("--space backbones", "--space freezing")):
        assert old in text
        text = text.replace(old, new)
    (home / "slurm.sh").write_text(text)
    return home / "slurm.sh"


def test_the_script_hands_symmetric_run_what_it_takes(tmp_path: Path) -> None:
    """Slurm's commands are replaced, and `ray` prints its words: what follows is the long test's."""
    script = set_up(tmp_path)
    ray = tmp_path / "maskcls" / "bin" / "ray"
    ray.unlink()
    ray.write_text('#!/bin/sh\n[ "$1" = get-auth-token ] || printf "%s\\n" "$RAY_AUTH_MODE" "$@"\n')
    ray.chmod(0o755)
    env = {"HOME": str(tmp_path), "USER": "somebody", "PATH": "/usr/bin:/bin", **SLURM}
    done = subprocess.run(["bash", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mode, command, *words = done.stdout.splitlines()
    assert (mode, command) == ("token", "symmetric-run")
    assert words == (tmp_path / "words").read_text().splitlines()[2:]
    options = words[: words.index("--")]
    values = dict(zip(options[::2], options[1::2], strict=True))
    assert [values.pop(option.opts[0]) for option in symmetric_run.params[:2]] == ["10.77.0.1:6379", "2"]
    assert values == {"--num-cpus": "1", "--num-gpus": "0"}  # of `ray start`
    assert words[words.index("--") + 1 :][:2] == ["maskcls", "search"]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_search_runs_on_two_nodes_and_ends_with_its_run_in_the_storage(tmp_path: Path, demo_faces: DemoFaces) -> None:
    if why := cannot():
        pytest.skip(why)
    home = tmp_path / "shared" / "home"
    script = set_up(home)
    shutil.copytree(demo_faces(24, 4), home / "faces")
    env = {"HOME": str(home), "USER": "somebody", **SLURM}
    with lan(tmp_path / "shared") as made:
        first, second = (made.machine(name, tmp="2g", env=env) for name in ("one", "two"))
        driver = first.start("bash", script)
        words = home / "words"
        wait_until(words.exists, "the script has come to srun")
        other = on_the_other_node(second, words.read_text().splitlines(), home)
        out, err = driver.communicate(timeout=600)
        assert driver.returncode == 0, out + err
        wait_until(lambda: other.poll() is not None, "the other node ends without its head", 300)
        assert other.returncode == 0
    run = SearchRun(home / "runs" / "first")
    assert run.record().sessions[-1].reason == "finished"
    assert (run.path / "best" / "bundle.json").exists()
    assert (home / ".ray" / "auth_token").exists()


def on_the_other_node(machine: Machine, words: list[str], home: Path) -> subprocess.Popen[str]:
    """Start srun's words with the environment that srun hands on."""
    path = f"{home}/maskcls/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    of_the_script = {"RAY_AUTH_MODE": "token", "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "300"}
    return machine.start(*words, env={"PATH": path, **of_the_script})
