"""Ray, quietly: started here or joined at an address, its dashboard, and what it has."""

import logging
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from maskcls.errors import RunError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver has its own
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_metrics_report_interval_ms": "2000",
}


@dataclass(frozen=True)
class Cluster:
    """Where trials run."""

    cpus: int
    gpus: float
    dashboard: str
    """host:port, or "" where there is none."""


TOKEN_COMMAND = "ray get-auth-token"


def quiet() -> None:
    """Say what Ray reads from the environment when it is imported or started; what the user has set stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\..*")
    # Ray logs a traceback for each worker that dies; the table says that the trial is retried, and Ray's own log files keep it.
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """Ray at the address, at RAY_ADDRESS (as in a submitted job), or started here; stopped or left again at the end.

    Raises:
        RunError: nothing answers at the address.
    """
    quiet()
    import ray

    if ray.is_initialized():
        yield _cluster()
        return
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"Ray at {where} cannot be reached: {' '.join(str(error).split())} Start it with `ray start --head`.") from None
    try:
        yield _cluster()
    finally:
        ray.shutdown()


def _cluster() -> Cluster:
    import ray

    resources = ray.cluster_resources()
    dashboard = ray._private.worker.get_dashboard_url() or ""
    return Cluster(cpus=int(resources.get("CPU", 1)), gpus=float(resources.get("GPU", 0)), dashboard=dashboard)


def here() -> Cluster:
    """This machine, without starting Ray."""
    return Cluster(cpus=local_cpus(), gpus=float(local_gpus()), dashboard="")


def local_gpus() -> int:
    """GPUs that this machine lets us see, asked of the driver's own tool, so that nobody has to import torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    if not shutil.which("nvidia-smi"):
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def local_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
