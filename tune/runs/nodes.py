"""Whether every node of a cluster sees the run's folder, the photos and the weights, before work is given to it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from maskcls.errors import RunError
from maskcls.models.weights import HUB, NONE
from maskcls.text import counted, first
from tune.runs import events
from tune.runs.folder import RunFolder
from tune.runs.joined_ray.nodes_aside import alive, others, set_aside
from tune.runs.session import say

ANSWER_S = 60.0
"""How long a node may take to start a worker and to look."""


def check_nodes(
    run: RunFolder,
    weights: Iterable[str],
    cpus: int = 1,
    gpus: float = 0.0,
    *,
    fewest: int = 2,
    shares_run: bool = True,
    sees_photos: bool = True,
) -> None:
    """Raises RunError that names the nodes of Ray's cluster which do not see what their fits need; one that does not
    answer is set aside where another is large enough.

    Each node must find in the run's folder what the driver has just written there, the first photo, and the folders of
    weights.

    Args:
        weights: as recipes have them: hub, none, or a folder.
        cpus, gpus: of a fit.
        fewest: a cluster of fewer nodes is not asked, since a fit there sees what the driver sees.
        shares_run: whether the nodes must see the run's folder; they need not where a storage has the run.
        sees_photos: whether they must see the photos; they need not where they are given them decoded.
    """
    import ray

    nodes = alive()
    if len(nodes) < fewest:
        return
    # A name that no node has asked for before, so that no file system answers from memory.
    written = run.path / f".seen-by-nodes-{ray.get_runtime_context().get_job_id()}"
    written.touch()
    try:
        folders = [Path(one) for one in sorted(set(weights) - {HUB, NONE})]
        files = [*(_first_photo(run) if sees_photos else ()), *folders]
        problems = _of_the_living(problems_of(files, written if shares_run else None), cpus, gpus)
    finally:
        written.unlink(missing_ok=True)
    if problems:
        named = first(sorted(map(str, problems)), 3)
        raise RunError(
            f"{len(problems)} of {counted(len(nodes), 'node')} of the cluster cannot take part: {named}. All nodes "
            f"must see the photos, the weights and {run.path} under the same paths: put them on a file system "
            "that they share (--data, --weights, --runs), give --ship-data or --storage in place of the first or the "
            "last, or start Ray without these nodes."
        )


def _of_the_living(problems: Sequence[Problem], cpus: int, gpus: float) -> Sequence[Problem]:
    """The problems that stop the work. A node that has gone meanwhile has none, and one that does not answer, as with a
    full disk, is set aside where another one that is large enough for a fit has no problem."""
    there = alive()
    living = [one for one in problems if one.node_id in there]
    if not {node.node_id for node in others("", cpus, gpus)} - {one.node_id for one in living}:
        return living
    for one in living:
        if not one.is_answer:
            set_aside(one.node_id)
            message = f"Node {str(one).rstrip('.')}. It gets no work from this command."
            say(message)
            events.emit(events.NodeSetAside(one.address, message))
    return [one for one in living if one.is_answer]


def _first_photo(run: RunFolder) -> list[Path]:
    with (run.data / "photos.csv").open(encoding="utf-8", newline="") as table:
        return [Path(row["file"]) for row in islice(csv.DictReader(table), 1)]


@dataclass(frozen=True)
class Problem:
    """What is wrong on a node of the cluster."""

    node_id: str
    address: str
    what: str
    """The rest of a sentence that begins with the address."""
    is_answer: bool
    """Whether the node has answered: it does not see a file."""

    def __str__(self) -> str:
        return f"{self.address} {self.what}"


def problems_of(files: Sequence[Path], written: Path | None = None) -> list[Problem]:
    """Ask every node of Ray's cluster for files; return what is wrong.

    Args:
        written: a file that the driver has just written; its folder is named where a node does not see it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look: Callable[..., Any] = ray.remote(num_cpus=0, max_retries=0)(unseen).options
    wanted = [*filter(None, [written]), *files]
    asked = {
        look(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(wanted): node
        for node in alive().values()
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    found = [(asked[one], f"did not answer within {ANSWER_S:g} s", False) for one in silent]
    for one in answered:
        try:
            missing = ray.get(one)
        except Exception as error:  # the node's environment lacks a package, its disk is full, or it has just gone
            found.append((asked[one], f"answered: {' '.join(str(error).split())[-200:]}", False))
            continue
        if missing:
            named = missing[0].parent if missing[0] == written else missing[0]
            found.append((asked[one], f"does not see {named}", True))
    return [Problem(node.node_id, node.address, what, is_answer) for node, what, is_answer in found]


def unseen(files: Sequence[Path]) -> list[Path]:
    """The files that this machine does not see. Runs in a worker of each node."""
    return [file for file in files if not file.exists()]
