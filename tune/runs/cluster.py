"""Starts Ray here, or joins it at an address, quietly; and says what cores, GPUs and dashboard it has."""

from __future__ import annotations

import atexit
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from maskcls.command_line import environment
from maskcls.command_line.signals import SIGNAL_STATUS, signal_of
from maskcls.errors import RunError, Terminated
from maskcls.machine import usable_cores
from tune.runs import output, worker_imports
from tune.runs.joined_ray import gpu_types
from tune.runs.joined_ray.address import is_on_loopback, out_of_reach, reach
from tune.runs.local_ray.gpus import local_gpus
from tune.runs.local_ray.loopback import on_loopback
from tune.runs.local_ray.place import find_place, temp_folder
from tune.runs.stopping import uninterrupted

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver has its own
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_metrics_report_interval_ms": "2000",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Ray's own snapshots: nothing is restored from them
    "RAY_task_oom_retries": "0",  # of work that Ray ended to save memory: `tune.fitting.pool` retries it, made smaller
}

_ROUNDING = 1e-9  # three times a third of a GPU is one GPU


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. A trial runs on one of them."""

    cpus: int
    gpus: float
    gpu_type: str = ""
    """As Ray names it, as in H100; "" where it does not know."""
    is_here: bool = field(default=False, compare=False)
    """Whether it is this process's."""


@dataclass(frozen=True)
class Cluster:
    """Where trials run."""

    nodes: tuple[Node, ...]
    dashboard: str = ""
    """host:port, or "" where there is none."""

    @property
    def cpus(self) -> int:
        """Cores of the node that has most."""
        return max(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of the node that has most."""
        return max(node.gpus for node in self.nodes)

    @property
    def gpu_types(self) -> set[str]:
        """Types of its GPUs."""
        return {node.gpu_type for node in self.nodes if node.gpus}

    def of_type_here(self) -> Cluster:
        """Return the cluster without the nodes that have GPUs of another type than this process's node."""
        here = {node.gpu_type for node in self.nodes if node.is_here and node.gpus}
        return replace(self, nodes=tuple(node for node in self.nodes if not node.gpus or node.gpu_type in here))

    def room(self, cpus: int, gpus: float) -> int:
        """Count how many trials of that size fit at a time."""
        return sum(
            min(node.cpus // cpus, int(node.gpus / gpus + _ROUNDING)) if gpus else node.cpus // cpus
            for node in self.nodes
        )


_STEP_S = 0.1
_ABORT_S = 10
_RAYS = "ray::"
"""How the names of Ray's Python processes begin."""
_AGENT = re.compile(r"ray::(Dashboard|RuntimeEnv)Agent|/agent\.py|/agent/main\.py")
"""Ray's agents, which work on no trial: as they name themselves, or by the file that they run."""
_ENDING_S = 60
"""How long what a killed driver leaves of its Ray may take to end."""


def quiet() -> None:
    """Set the environment variables that Ray reads when it is imported or started, unless the user has set them."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\..*")
    # Ray logs a traceback for each worker that dies. The table says that the trial is retried, and Ray's log files keep
    # the traceback. In a notebook it asks for a package that only its own pictures need.
    for name in ("ray", "ray.tune", "ray.train", "ray.widgets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_address(address: str | None) -> None:
    """Raise RunError where Ray at the address cannot be joined; for commands, before what takes longest to import."""
    if address and not is_up():
        quiet()
        reach(address)


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Join Ray at the address, or start it here with what `here` counts; at the end, leave or stop it.

    Raises:
        RunError: nothing answers at the address, or Ray does not start.
    """
    quiet()
    import ray

    if ray.is_initialized():
        try:  # This starts nothing, and returns the dashboard's address.
            yield _cluster(ray.init(ignore_reinit_error=True, logging_level=logging.ERROR).dashboard_url)
        finally:
            gpu_types.run_on("")
        return
    if address:
        reach(address)
    settings: dict[str, object] = {"address": address} if address else _local_settings()
    settings |= {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": worker_imports.runtime_env()}
    try:
        with _sigterm_kept(), on_loopback() if is_on_loopback(address) else nullcontext():
            begun = ray.init(**settings)
    except Exception as error:  # where Ray's own processes are too slow it is a plain Exception
        said = " ".join(str(error).split())
        if not address:
            raise RunError(f"Ray could not be started here: {said} Its log files lie in {logs_folder()}.") from None
        raise out_of_reach(address, said) from None
    with nullcontext() if address else _agents_ended_with_us():
        try:
            yield _cluster(begun.dashboard_url)
        finally:
            gpu_types.run_on("")
            with uninterrupted():  # else Ray's processes would be left behind
                ray.shutdown()


@contextmanager
def _agents_ended_with_us() -> Iterator[None]:
    """Within the block, let Ray's agents end with this process if it is killed; by themselves they take over a minute.

    Ray's other processes are ended by the kernel, or follow these within seconds.
    """
    agents = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            agents += [process.pid] if _AGENT.search(" ".join(process.cmdline())) else []
    # The shell waits for a line, which comes at the block's end, or for the end of a pipe that this process alone
    # holds. A terminal's Ctrl-C does not reach it, because it has a process group of its own.
    words = ["sh", "-c", 'read -r line || kill -9 "$@"', "sh", *map(str, agents)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, process_group=0) as watcher:
        try:
            yield
        finally:
            watcher.communicate(b"done\n")


def left_behind(driver: int) -> dict[int, str]:
    """Return what is left of the Ray that a process started on this machine and that ended with it: names by pid.

    Ray's processes have log files of their session open, and the session's name ends with the number of the process
    that started it. While its `raylet` lives, Ray is up, and nothing is left behind.
    """
    found: dict[int, str] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            name = (process.cmdline() or [""])[0]
            is_core = process.name() in ("raylet", "gcs_server")
            if (is_core or name.startswith(_RAYS)) and _has_logs_of(process, driver):
                if is_core:
                    return {}
                found[process.pid] = name
    return found


def _has_logs_of(process: psutil.Process, driver: int) -> bool:
    """Whether a process has a log file open of a session of Ray that was started by this driver."""
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        folders = str(file.readlink()).split("/")
        if "logs" in folders and any(re.fullmatch(rf"session_.+_{driver}", one) for one in folders):
            return True
    return False


def wait_for_left_behind(driver: int) -> None:
    """Say what a killed driver's Ray has left, and wait for its workers, which may be at work on the same trials."""
    there = left_behind(driver)
    if not there:
        return
    print(
        f"Of the Ray of a driver that was killed (process {driver}) there are still "
        f"{', '.join(sorted(set(there.values())))}. They end by themselves within a minute; to end them now: "
        f"kill -9 {' '.join(map(str, there))}",
        file=output.errors(),
    )
    until = time.monotonic() + _ENDING_S
    while time.monotonic() < until and not all(map(_AGENT.search, left_behind(driver).values())):
        time.sleep(_STEP_S)


def _local_settings() -> dict[str, object]:
    """The arguments of `ray.init` for a Ray that is started here; sets what its processes read in the environment.

    Raises RunError where it finds no folder for its files.
    """
    environment.mend()
    place = find_place()
    os.environ.update(place.variables)
    # Ray would count cores by another rule, the container's quota. A trial that is planned with more would wait for
    # ever.
    local = here().nodes[0]
    return {"address": "local", "num_cpus": local.cpus, "num_gpus": int(local.gpus), **place.settings}


def logs_folder() -> str:
    """Where Ray's log files lie: on this machine, of a Ray that was started by a command of this user."""
    return str(temp_folder() / "session_latest" / "logs")


def is_up() -> bool:
    """Whether this process is connected to Ray already. Ray is not imported for that."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM at the block's end: Ray sets one that exits with 15, and so hides the signal.

    Raises Terminated if the signal comes within the block.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before is None or threading.current_thread() is not threading.main_thread():  # in a thread Ray sets none
        yield
        return
    try:
        yield
    except SystemExit as error:
        if error.code == signal.SIGTERM:
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def starting(address: str | None, *, is_guest: bool = False) -> Iterator[Callable[[], Cluster]]:
    """Do what `connected` does, but in a thread beside the block, which gets a function that waits for the cluster.

    That function raises what `connected` raises. The thread stays until the block's end, because Linux ends the
    processes that a thread has started together with the thread (prctl(2), PR_SET_PDEATHSIG), as Ray asks it to.
    However the block ends, Ray's start is waited for, and then Ray is shut down. Ctrl-C while it is waited for ends
    at once what has been started.

    Args:
        is_guest: this process belongs to another program, as a notebook does: Ctrl-C waits for Ray's start in any case,
            because the process and its other children must go on.
    """
    stack, begun, left = ExitStack(), Future[Cluster](), threading.Event()

    def start() -> None:
        _own_group.wanted = True
        try:
            begun.set_result(stack.enter_context(connected(address)))
        except BaseException as error:
            begun.set_exception(error)
        left.wait()

    def ready() -> Cluster:
        _wait(begun)
        return begun.result()

    threading.Thread(target=start, name="ray", daemon=True).start()
    try:
        yield ready
    finally:
        with uninterrupted() if is_guest else nullcontext():
            try:
                _wait(begun)
            except (KeyboardInterrupt, SystemExit) as interrupt:
                _end_half_started(_status(interrupt))
                raise
            stack.close()
            left.set()


_own_group = threading.local()
"""`wanted` is set in the thread that starts Ray."""


def _leave_group() -> None:
    """Move a process that has just been forked to a process group of its own, if it is one of Ray's.

    A terminal sends Ctrl-C to the group of the driver. Ray blocks the signal in what it starts, but its dashboard lets
    it in again, loses one of its own processes, and is waited for in vain.
    """
    if getattr(_own_group, "wanted", False):
        os.setpgrp()


os.register_at_fork(after_in_child=_leave_group)


def _wait(begun: Future[Cluster]) -> None:
    """Wait in short steps: a signal that comes while another thread forks is noticed only at the end of a step."""
    while not begun.done():
        wait([begun], timeout=_STEP_S)


def _status(interrupt: BaseException) -> int:
    if isinstance(interrupt, SystemExit):
        return interrupt.code if isinstance(interrupt.code, int) else 1
    return SIGNAL_STATUS + signal_of(interrupt)


def _end_half_started(status: int) -> None:
    """End this process's children and theirs: if Ray is only half started, its agents would outlive the raylet.

    All of them are stopped before the first is ended, as otherwise one might start another that is not found. Ray's own
    handlers of exceptions and of Python's exit are removed, because they would look for these processes for a minute.
    So might the thread that starts Ray, and some of Ray's waits keep the interpreter to themselves: an alarm ends this
    process then.

    Args:
        status: this process's exit status. It exits without what C++ does at an exit: that would free what Ray's
            threads still use, and crash.
    """
    import ray

    signal.alarm(_ABORT_S)
    still: set[psutil.Process] = set()
    while moving := set(psutil.Process().children(recursive=True)) - still:
        for child in moving:
            with suppress(psutil.Error):
                child.suspend()
        still |= moving
    for child in still:
        with suppress(psutil.Error):
            child.kill()
    atexit.unregister(ray.shutdown)
    sys.excepthook = sys.__excepthook__
    atexit.register(_exit, status)  # runs before all that were registered earlier


def _exit(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def _cluster(dashboard: str | None) -> Cluster:
    import ray

    own = ray.get_runtime_context().get_node_id()
    alive = [(node["Resources"], node["NodeID"] == own) for node in ray.nodes() if node["Alive"]]
    nodes = tuple(
        Node(int(there.get("CPU", 0)), float(there.get("GPU", 0)), gpu_types.type_of(there), is_here)
        for there, is_here in alive
    )
    return Cluster(nodes, dashboard or "")


def here() -> Cluster:
    """Describe this machine without starting Ray."""
    return Cluster((Node(usable_cores(), float(local_gpus())),))
