"""Whether every node of a cluster sees the run's folder, the photos and the weights, before work is given to it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from maskcls.errors import RunError
from maskcls.models.weights import HUB, NONE
from maskcls.text import counted, first
from tune.runs.folder import RunFolder

ANSWER_S = 60.0
"""How long a node may take to start a worker and to look."""


def check_nodes(
    run: RunFolder, weights: Iterable[str], *, fewest: int = 2, shares_run: bool = True, sees_photos: bool = True
) -> None:
    """Raises RunError that names the nodes of Ray's cluster which do not see what their fits need, or do not answer.

    Each node must find in the run's folder what the driver has just written there, the first photo, and the folders of
    weights.

    Args:
        weights: as recipes have them: hub, none, or a folder.
        fewest: a cluster of fewer nodes is not asked, since a fit there sees what the driver sees.
        shares_run: whether the nodes must see the run's folder; they need not where a storage has the run.
        sees_photos: whether they must see the photos; they need not where they are given them decoded.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < fewest:
        return
    # A name that no node has asked for before, so that no file system answers from memory.
    written = run.path / f".seen-by-nodes-{ray.get_runtime_context().get_job_id()}"
    written.touch()
    try:
        folders = [Path(one) for one in sorted(set(weights) - {HUB, NONE})]
        problems = problems_of([*(_first_photo(run) if sees_photos else ()), *folders], written if shares_run else None)
    finally:
        written.unlink(missing_ok=True)
    if problems:
        raise RunError(
            f"{len(problems)} of {counted(len(nodes), 'node')} of the cluster cannot take part: "
            f"{first(sorted(problems), 3)}. All nodes must see the photos, the weights and {run.path} under the same "
            "paths: put them on a file system that they share (--data, --weights, --runs), give --ship-data or "
            "--storage in place of the first or the last, or start Ray without these nodes."
        )


def _first_photo(run: RunFolder) -> list[Path]:
    with (run.data / "photos.csv").open(encoding="utf-8", newline="") as table:
        return [Path(row["file"]) for row in islice(csv.DictReader(table), 1)]


def problems_of(files: Sequence[Path], written: Path | None = None) -> list[str]:
    """Ask every node of Ray's cluster for files; return what is wrong on a node, after its address.

    Args:
        written: a file that the driver has just written; its folder is named where a node does not see it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    look: Callable[..., Any] = ray.remote(num_cpus=0, max_retries=0)(unseen).options
    wanted = [*filter(None, [written]), *files]
    on = {node["NodeID"]: NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes}
    asked = {look(scheduling_strategy=on[node["NodeID"]]).remote(wanted): node for node in nodes}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    problems = [f"{_address(asked[one])} did not answer within {ANSWER_S:g} s" for one in silent]
    for one in answered:
        try:
            missing = ray.get(one)
        except Exception as error:  # the node's environment lacks a package, or the node has just gone
            problems.append(f"{_address(asked[one])} answered: {' '.join(str(error).split())[-200:]}")
            continue
        if missing:
            named = missing[0].parent if missing[0] == written else missing[0]
            problems.append(f"{_address(asked[one])} does not see {named}")
    return problems


def unseen(files: Sequence[Path]) -> list[Path]:
    """The files that this machine does not see. Runs in a worker of each node."""
    return [file for file in files if not file.exists()]


def _address(node: dict[str, Any]) -> str:
    return str(node["NodeManagerAddress"])
