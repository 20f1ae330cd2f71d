"""Ray is joined or started, interrupted at every moment of it, and nothing is left behind.

Each start of Ray takes seconds; the moments that differ least are for `make soak`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.commands import start
from tests.tune.search.test_kill import none_left
from tune.runs import cluster

BEGIN = """
import time
import ray
from maskcls import machine
from maskcls.errors import RunError
from tune.runs import cluster
"""


STARTED_BESIDE = """
try:
    with cluster.starting("127.0.0.1:1") as ready:
        ready()
except RunError as error:
    assert "cannot be reached" in str(error), error
else:
    raise AssertionError("nothing was raised")
with cluster.starting("127.0.0.1:1"):
    pass  # nobody asked
try:
    with cluster.starting(None) as ready:
        there = ready()
        assert there.nodes[0].cpus == machine.usable_cores()
        time.sleep(2)
        assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
        assert ready() is there
        1 / 0  # something goes wrong in the block
except ZeroDivisionError:
    assert not ray.is_initialized()
else:
    raise AssertionError("nothing was raised")

def late(**settings):
    raise Exception("The current node timed out during startup.")

ray.init = late
try:
    with cluster.connected(None):
        raise SystemExit("It started.")
except RunError as error:
    assert str(error).startswith("Ray could not be started here: The current node timed out"), error
"""


@pytest.mark.soak
def test_ray_starts_beside_the_block_and_stays_until_its_end_however_it_ends() -> None:
    """Its processes would be ended with the thread that started them. A silent address is refused when the cluster is
    asked for. Where Ray waits for its own processes for half a minute, and then raises a plain Exception, that is one
    message. All in a process of its own, for other tests' Ray runs in this one."""
    done = subprocess.run([sys.executable, "-c", BEGIN + STARTED_BESIDE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def asked(code: str) -> subprocess.Popen[str]:
    """As a shell would start it: at the head of its own process group."""
    return start("-c", BEGIN + code)


def begun(code: str) -> subprocess.Popen[str]:
    """As `asked`, and it has printed "begun"."""
    driver = asked(code)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "begun\n"
    return driver


GOES_ON = "while True: time.sleep(0.1)"
"""As a driver does. In one long sleep, Python would not see a signal that comes while another thread forks."""


@pytest.mark.soak
@pytest.mark.parametrize(("goes_on", "after_s"), [(GOES_ON, 3.0), (GOES_ON, 1.0), ("1 / 0", 1.0)])
def test_ctrl_c_while_ray_starts_leaves_nothing_behind(goes_on: str, after_s: float) -> None:
    """A terminal sends it to the whole group, Ray's half-started processes too. A block that failed waits for Ray."""
    driver = begun(f"""
with cluster.starting(None):
    print("begun", flush=True)
    {goes_on}
""")
    time.sleep(after_s)
    os.killpg(driver.pid, signal.SIGINT)
    interrupted(driver)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["starting", "connected"])
def test_sigterm_ends_a_command_with_its_own_status_and_leaves_nothing_behind(how: str) -> None:
    """Ray has a handler of its own, which would exit with 15."""
    driver = begun(f"""
from maskcls.cli import run
def main():
    with cluster.{how}(None):
        print("begun", flush=True)
        {GOES_ON}
run(main)
""")
    time.sleep(1)
    driver.send_signal(signal.SIGTERM)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 143, err
    assert err == "Terminated.\n"
    assert none_left(driver, limit_s=5)


@pytest.mark.soak
def test_ctrl_c_while_ray_starts_leaves_the_program_that_called_alone() -> None:
    """A notebook goes on: Ray's start is waited for, its own children and handlers of signals stay."""
    host = asked("""
import signal, subprocess
own = subprocess.Popen(["sleep", "60"], process_group=0)
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
try:
    with cluster.starting(None, is_guest=True):
        print("begun", flush=True)
        while True: time.sleep(0.1)
except KeyboardInterrupt:
    assert not ray.is_initialized()
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
assert own.poll() is None
own.kill()
print("goes on")
""")
    assert host.stdout is not None
    assert host.stdout.readline() == "begun\n"
    time.sleep(1)
    os.killpg(host.pid, signal.SIGINT)
    time.sleep(0.5)
    os.killpg(host.pid, signal.SIGINT)
    out, err = host.communicate(timeout=60)
    assert out == "goes on\n", err
    assert none_left(host)


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_ray() -> None:
    driver = begun(f"""
with cluster.starting(None):
    print("begun", flush=True)
    {GOES_ON}
""")
    for _ in range(2):
        time.sleep(1)
        os.killpg(driver.pid, signal.SIGINT)
    interrupted(driver)


@pytest.mark.soak
def test_ctrl_c_as_ray_comes_up_does_not_wait_for_what_it_has_ended() -> None:
    """Ray is connected then, and would tell its GCS of the exception."""
    interrupted(
        asked("""
import os, signal
there = cluster._cluster
def interrupted(dashboard):
    os.killpg(0, signal.SIGINT)
    time.sleep(1)
    return there(dashboard)
cluster._cluster = interrupted
with cluster.starting(None):
    while True: time.sleep(0.1)
""")
    )


@pytest.mark.soak
def test_ctrl_c_while_ray_shuts_down_leaves_nothing_behind() -> None:
    """It comes when Ray's connection is gone and its processes are not; Ray would end this process and leave them."""
    interrupted(
        asked("""
import os, signal
from ray._private.node import Node
end = Node.kill_all_processes
def interrupted(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)
    end(*arguments, **options)
with cluster.connected(None):
    Node.kill_all_processes = interrupted
""")
    )


def interrupted(driver: subprocess.Popen[str]) -> None:
    """It says so, soon, and nothing of it is left."""
    _, err = driver.communicate(timeout=120)
    assert driver.returncode in (130, -signal.SIGINT), "no crash, and no alarm"
    assert "KeyboardInterrupt" in err
    assert none_left(driver, limit_s=5)


def test_what_a_killed_driver_left_is_found_by_its_session(
    tmp_path: Path, ray_cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.left_behind(os.getpid()) == {}, "the tests' own Ray is up"
    driver = 2**22 + 1  # more than the kernel gives
    logs = tmp_path / f"session_2030-01-01_00-00-00_000000_{driver}" / "logs"
    logs.mkdir(parents=True)
    words = ["ray::ImplicitFunc.train()", "60"]
    with (logs / "worker.out").open("w") as log:
        left = subprocess.Popen(words, executable=shutil.which("sleep"), stdout=log)
    ending = threading.Timer(1.0, left.kill)
    try:
        assert cluster.left_behind(driver) == {left.pid: words[0]}
        assert cluster.left_behind(1) == {}
        ending.start()
        cluster.wait_for_left_behind(driver)
        assert cluster.left_behind(driver) == {}
    finally:
        ending.cancel()
        left.kill()
        left.wait()
    said = f"Of the Ray of a driver that was killed (process {driver}) there are still {words[0]}. They end by"
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_after_a_kill_no_process_of_rays_outlives_a_minute() -> None:
    """The kernel ends the raylet with the driver, and workers see that; the agents would live for over a minute."""
    driver = begun(f"""
with cluster.starting(None) as ready:
    ready()
    ray.remote(lambda: time.sleep(600)).remote()
    time.sleep(5)
    print("begun", flush=True)
    {GOES_ON}
""")
    assert cluster.left_behind(driver.pid) == {}
    driver.kill()
    driver.communicate()
    cluster.wait_for_left_behind(driver.pid)
    assert none_left(driver, limit_s=30)
