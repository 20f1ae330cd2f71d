"""Ray's own cluster of several nodes on one machine, for which nobody need be root: a node that dies costs an epoch.

Its nodes share this machine's address, disk and memory; what else can be lost is in the other files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.searches import Search, again, is_whole
from tests.conftest import ROOT


@dataclass
class ThisMachine:
    """Where the driver runs, in a process of its own."""

    def start(self, *words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `python` with these words."""
        command = [sys.executable, *map(str, words[1:])]
        pipe, variables = subprocess.PIPE, {**os.environ, **(env or {})}
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=variables)


@dataclass
class OneMachineCluster:
    """What a `Search` asks of its cluster."""

    nodes: Any
    runs: Path
    head = ThisMachine()

    @property
    def address(self) -> str:
        """host:port of the cluster."""
        return str(self.nodes.address)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[OneMachineCluster]:
    """A head that trains nothing, and no workers yet."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as temp_dir:  # a short path, for it is in those of Ray's sockets
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": temp_dir}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield OneMachineCluster(nodes, tmp_path / "runs")
        finally:
            nodes.shutdown()


def test_a_node_that_dies_in_training_costs_one_epoch_at_most(cluster: OneMachineCluster) -> None:
    worker = cluster.nodes.add_node(num_cpus=1)
    search = Search(cluster, "broken", trials=1, epochs=8, sleep_s=0.3)
    search.wait_for(3)
    cluster.nodes.remove_node(worker, allow_graceful=False)
    cluster.nodes.add_node(num_cpus=1)
    search.finish()
    assert is_whole(search, trials=1)
    assert again(search) <= 1
