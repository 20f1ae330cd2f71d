"""A Ray cluster of several machines, each in namespaces of its own, for tests that lose some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.machines import Lan, Machine, cannot, lan

PORT = 6379
ALERT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


@dataclass
class RayCluster:
    """A head that trains nothing, where drivers are started, and workers that join it."""

    lan: Lan
    head: Machine

    @property
    def address(self) -> str:
        """host:port of the cluster."""
        return f"{self.head.address}:{PORT}"

    @property
    def runs(self) -> Path:
        """A folder that all machines see."""
        return self.lan.shared / "runs"

    def join(
        self, name: str, *words: object, cpus: int = 1, env: Mapping[str, str] | None = None, **more: Any
    ) -> Machine:
        """Switch a machine on, and let it join the cluster with so many cores.

        Args:
            words: options of `ray start`.
            env: variables of its commands, beside the cluster's.
            more: what else `Lan.machine` takes.
        """
        machine = self.lan.machine(name, env={**self.head.environment, **(env or {})}, **more)
        machine.ray_start("--address", self.address, "--num-cpus", cpus, *words)
        return machine


@pytest.fixture
def empty_lan(tmp_path: Path) -> Iterator[Lan]:
    """A switch without machines. Skips where there can be none, and says why."""
    if why := cannot():
        pytest.skip(why)
    with lan(tmp_path / "shared") as made:
        yield made


@pytest.fixture
def cluster(empty_lan: Lan) -> RayCluster:
    """A head that asks for no token and has Ray's own time limits, and no workers yet."""
    return begun(empty_lan.machine("head"), empty_lan)


@pytest.fixture
def alert_cluster(empty_lan: Lan) -> RayCluster:
    """As `cluster`, but a node that does not answer is given up after seconds, not after a minute."""
    return begun(empty_lan.machine("head", env=ALERT), empty_lan)


def begun(head: Machine, lan: Lan) -> RayCluster:
    """Begin a cluster on a machine, its head."""
    head.ray_start("--head", "--port", PORT, "--num-cpus", 0, "--include-dashboard", "false")
    return RayCluster(lan, head)
