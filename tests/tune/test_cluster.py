"""What is said where Ray is not."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from test_kill import none_left

from maskcls.errors import RunError
from tune import cluster


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RunError, match=rf"Ray at {address} cannot be reached: .*refused.*ray start --head"):
            cluster._refuse_silence(address)


def test_names_that_are_no_host_and_port_are_left_to_ray() -> None:
    for address in (None, "auto", "ray://127.0.0.1:1", "local"):
        cluster._refuse_silence(address)


def alone(code: str) -> None:
    """Run in a process of its own: other tests' Ray runs in this one."""
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


BEGIN = """
import time
import ray
from maskcls.errors import RunError
from tune import cluster
"""


def test_ray_starts_beside_the_block_and_stays_until_its_end() -> None:
    """Its processes would be ended with the thread that started them."""
    alone("""
with cluster.starting(None) as ready:
    there = ready()
    assert there.nodes[0].cpus == cluster.local_cpus()
    time.sleep(2)
    assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
    assert ready() is there
assert not ray.is_initialized()
""")


def test_what_goes_wrong_in_the_block_leaves_no_ray_behind() -> None:
    alone("""
try:
    with cluster.starting(None):
        1 / 0
except ZeroDivisionError:
    assert not ray.is_initialized()
else:
    raise AssertionError("nothing was raised")
""")


def test_a_silent_address_is_told_when_the_cluster_is_asked_for() -> None:
    alone("""
try:
    with cluster.starting("127.0.0.1:1") as ready:
        ready()
except RunError as error:
    assert "cannot be reached" in str(error), error
else:
    raise AssertionError("nothing was raised")
with cluster.starting("127.0.0.1:1"):
    pass  # nobody asked
""")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("after_s", [1.0, 3.0])
def test_ctrl_c_while_ray_starts_leaves_nothing_behind(after_s: float) -> None:
    """A terminal sends it to the whole group, Ray's processes that are half started included."""
    code = f"{BEGIN}\nwith cluster.starting(None):\n    print('begun', flush=True)\n    time.sleep(600)"
    asked = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert asked.stdout is not None
    assert asked.stdout.readline() == "begun\n"
    time.sleep(after_s)
    os.killpg(asked.pid, signal.SIGINT)
    asked.wait(timeout=120)  # a minute where Ray has just come up, and what it asks has gone
    assert asked.returncode != 0
    assert none_left(asked)
