"""The ways into a cluster, in the order in which a user comes to them, on a machine that has searched before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.machines import HOME, Lan, Machine, wait_until
from tests.conftest import DemoFaces

PORT = 6379
CHEAP = (
    *("--space", "freezing", "--image-size", 32, "--set", "backbone=test_resnet", "--weights", "none"),
    *("--epochs", 1, "--finalists", 0, "--parallel", 1, "--cpus-per-trial", 1),
)


class User:
    """A user of the cluster's head, and a folder that lasts."""

    def __init__(self, machine: Machine, shared: Path, faces: Path) -> None:
        self.machine = machine
        self.address = f"{machine.address}:{PORT}"
        self.shared = shared
        self._all = (*CHEAP, "--data", faces, "--runs", shared / "runs")

    def words(self, name: str, trials: int, *words: object) -> list[object]:
        """Return the words of a search."""
        return [sys.executable, "-m", "maskcls", "search", *self._all, "--name", name, "--trials", trials, *words]

    def search(self, name: str, *words: object) -> None:
        """Search, of one trial, which must end well."""
        done = self.machine.run(*self.words(name, 1, *words), timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.status(name)["ended"] == 1

    def job(self, package: Path, *words: object) -> subprocess.CompletedProcess[str]:
        """Submit a job with Ray's own command, which shows the token only if it is asked to, and wait for its end."""
        package.mkdir(exist_ok=True)
        address = ("--address", "http://127.0.0.1:8265")
        submitted = ("ray", "job", "submit", *address, "--working-dir", package, "--", *words)
        return self.machine.run(*submitted, env={"RAY_AUTH_MODE": "token"}, timeout=240)

    def status(self, name: str, *words: object) -> dict[str, object]:
        """Return what `maskcls status --json` says of a run."""
        asked = ("python", "-m", "maskcls", "status", name, "--runs", self.shared / "runs", "--json", *words)
        done = self.machine.run(*asked)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)["run"])

    def refused(self, words: tuple[object, ...] = (), **env: str) -> str:
        """Return the one line with which a search by address is refused."""
        done = self.machine.run(*self.words("refused", 1, "--address", self.address, *words), env=env)
        assert done.returncode != 0
        (line,) = done.stderr.splitlines()
        return line


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_local_search_then_a_head_an_address_and_two_jobs(empty_lan: Lan, demo_faces: DemoFaces) -> None:
    faces = empty_lan.shared / "faces"
    shutil.copytree(demo_faces(24, 4), faces)
    user = User(empty_lan.machine("head"), empty_lan.shared, faces)
    user.search("local")
    token = Path(f"/proc/{user.machine.first}/root{HOME}/.ray/auth_token")
    assert token.exists(), "as each start of Ray by a command leaves one"

    user.machine.ray_start("--head", "--port", PORT, "--num-cpus", 1, "--include-dashboard", "true")
    user.search("by-auto", "--address", "auto")
    user.search("by-address", "--address", user.address)
    assert "refuses the token of RAY_AUTH_TOKEN" in user.refused(RAY_AUTH_TOKEN="f" * 64)
    assert "there is none here" in user.refused(RAY_AUTH_TOKEN_PATH="/nothing")
    assert "RAY_AUTH_MODE is disabled here" in user.refused(RAY_AUTH_MODE="disabled")

    package = empty_lan.shared / "package"
    again = user.words("job", 1, "--begin-or-resume")
    for trials in (1, 2):
        again[again.index("--trials") + 1] = trials
        done = user.job(package, *again)
        assert done.returncode == 0, done.stdout + done.stderr
        assert user.status("job", "--address", "auto")["ended"] == trials
    again[again.index("--runs") + 1] = "runs"
    done = user.job(package, *again)
    assert done.returncode != 0
    assert "Error: --runs runs lies in the folder into which Ray has unpacked this job's --working-dir" in done.stdout


@pytest.mark.soak
def test_machines_with_the_token_join_and_see_and_others_learn_why_not(empty_lan: Lan) -> None:
    """As README says it: one token, made on the head and copied; RAY_AUTH_MODE=token for Ray's own commands."""
    mode = {"RAY_AUTH_MODE": "token"}
    head, second, third = (empty_lan.machine(name, env=mode) for name in ("head", "second", "third"))
    made = head.run("ray", "get-auth-token", "--generate")
    assert made.returncode == 0, made.stderr
    head.ray_start("--head", "--port", PORT, "--num-cpus", 0, "--include-dashboard", "false")
    address = f"{head.address}:{PORT}"
    status = ("python", "-m", "maskcls", "status", "--address", address)
    assert "there is none here: copy ~/.ray/auth_token" in third.run(*status).stderr
    for machine in (second, third):
        machine.run("sh", "-c", f"echo {made.stdout.strip()} > {HOME}/.ray/auth_token")
    second.ray_start("--address", address, "--num-cpus", 1)
    (first, *nodes) = third.run(*status).stdout.splitlines()
    assert first == "Cluster: 2 nodes alive."
    assert nodes == [f"  {head.address} (head): no cores for trials", f"  {second.address}: 0 of 1 cores in use"]

    searched = third.run(*User(third, empty_lan.shared, empty_lan.shared).words("one", 1, "--address", address))
    assert searched.returncode != 0
    assert searched.stderr.startswith(f"Error: Ray at {address} has no node on this machine, and a driver needs one")
    second.power_off()
    wait_until(lambda: "1 node alive, 1 dead" in third.run(*status).stdout, "the head has given the node up", 180)
