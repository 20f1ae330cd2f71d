"""NodeWatch: which nodes of a cluster are set aside, because the machine fails trials there or the node is to leave."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tune.fitting.attempts import Attempt
from tune.runs.joined_ray.nodes_aside import LiveNode, alive, allowed, is_aside, node_at, others, set_aside
from tune.runs.joined_ray.ray_private import leaving_nodes
from tune.runs.shares import Unit

_ADDRESS = re.compile(r"^\s*ip: (\S+)$", re.MULTILINE)
"""Of a node, where Ray says that an actor has died."""
_LOOK_S = 1.0
_TRIED_BYTES = 2**20
Tell = Callable[[LiveNode, str], object]


class NodeWatch:
    """Counts by node what the machine has failed there since an epoch was done there, and sets a node aside after
    `--max-failures` of these, or when the node is to leave the cluster; never the last one that is large enough.

    A worker's death may be its recipe's fault as well. So deaths of one trial count once, however many they are.

    Args:
        cpus, gpus: of a trial, or fit.
    """

    def __init__(self, cpus: int, gpus: float, unit: Unit) -> None:
        self._cpus, self._gpus, self._unit = cpus, gpus, unit
        self.tell: Tell = lambda node, message: None
        """Is given each node that is set aside, once, and a message for people."""
        self._failed: dict[str, int] = {}
        """By node, failures that no recipe brings about."""
        self._died: dict[str, set[str]] = {}
        """By node, trials whose workers died there."""
        self._look_from = 0.0

    def worked(self, node_id: str) -> None:
        """Begin the node's count again: a new epoch was done there."""
        self._failed.pop(node_id, None)
        self._died.pop(node_id, None)

    def failed(self, node_id: str, why: str) -> bool:
        """Count that the machine failed a trial on a node; return whether the node is set aside."""
        self._failed[node_id] = self._failed.get(node_id, 0) + 1
        return self._judge(node_id, why)

    def died(self, node_id: str, trial: str, why: str) -> bool:
        """Count that a trial's worker died on a node; return whether the node is set aside."""
        self._died.setdefault(node_id, set()).add(trial)
        return self._judge(node_id, why)

    def lost(self, trial: str, attempt: Attempt | None, said: str, why: str) -> str:
        """Count that a trial has lost its worker, unless memory was short; return the id of the worker's node, or "".

        Args:
            attempt: what a worker of the trial has noted; None: none has come to it.
            said: all that Ray says of it.
            why: the same in a line.
        """
        address = _ADDRESS.search(said)
        node_id = node_at(address[1] if address else "", attempt.node if attempt else "")
        if attempt is None:
            self.failed(node_id, why)
        elif not attempt.was_short:
            self.died(node_id, trial, why)
        return node_id

    def _judge(self, node_id: str, why: str) -> bool:
        if is_aside(node_id):
            return self.has_others(node_id)
        times = self._failed.get(node_id, 0) + len(self._died.get(node_id, ()))
        node = alive().get(node_id)
        if times < allowed() or node is None or not self.has_others(node_id):
            return False
        self.worked(node_id)
        set_aside(node_id)
        self.tell(
            node,
            f"Node {node.address} gets no more {self._unit}s from this command: {times} in a row failed there by the "
            f"machine, the last one with: {' '.join(why.split())} Other nodes go on with them.",
        )
        return True

    def has_others(self, node_id: str) -> bool:
        """Whether another node that is not set aside could do a trial."""
        return bool(others(node_id, self._cpus, self._gpus))

    def is_full(self, node_id: str, run: Path) -> bool:
        """Whether a full disk that a worker has met is its node's own: the run's has room, and there are other nodes.

        Args:
            run: the run's folder.
        """
        return bool(node_id) and self.has_others(node_id) and _has_room(run)

    def look(self) -> None:
        """Set aside the nodes that are to leave the cluster (Ray calls this draining). Asks at most once a second."""
        if time.monotonic() < self._look_from:
            return
        self._look_from = time.monotonic() + _LOOK_S
        there = alive()
        if len(there) < 2:
            return
        for node_id in leaving_nodes() & there.keys():
            if not is_aside(node_id) and self.has_others(node_id):
                set_aside(node_id)
                self.tell(
                    there[node_id],
                    f"Node {there[node_id].address} is to leave the cluster: other nodes go on with its {self._unit}s.",
                )

    def must_leave(self, node_id: str) -> bool:
        """Whether a trial on this node should go on on another one."""
        return is_aside(node_id) and self.has_others(node_id)


def _has_room(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
    except OSError:
        return False
    return True
