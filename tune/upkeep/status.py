"""`maskcls status`: how a run stands, and the cluster that it runs on, from any machine that sees them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls.cli import run
from maskcls.errors import CallError
from maskcls.text import counted, printable
from tune.durations import duration
from tune.runs.joined_ray.address import host_and_port, refuse_silence
from tune.runs.joined_ray.probe import LiveNode, live_nodes, states

if TYPE_CHECKING:
    from tune.upkeep.progress import RunStatus

NAMED = 3
_LONGEST = 200


def main(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's folder, or its name under --runs.")
    ] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    storage: Annotated[
        str | None, typer.Option("--storage", help="Where a search is kept, as it was called.", show_default="--runs")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Ray cluster, as in auto or HOST:6379.", show_default="none")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Say how a run stands, live or finished: trials, epochs, the best, failures; of a cluster, its nodes.

    Nothing is joined or locked: the run's folder is read, and the cluster asked.
    """
    if name is None and address is None:
        raise CallError("Name a run, or a cluster with --address. `maskcls runs list` lists the runs.")
    status = _status_of(name, runs, storage) if name is not None else None
    nodes = _nodes_at(address) if address is not None else None
    if as_json:
        found = {"run": status and asdict(status), "nodes": None if nodes is None else [asdict(node) for node in nodes]}
        print(json.dumps({key: value for key, value in found.items() if value is not None}, default=str))
        return
    for line in [*(_lines_of_run(status) if status else ()), *(_lines_of_nodes(nodes) if nodes is not None else ())]:
        print(printable(line))


def _status_of(name: str, runs: Path, storage: str | None) -> RunStatus:
    from tune.upkeep.inventory import open_any
    from tune.upkeep.progress import status_of, stored_status

    return status_of(open_any(name, runs)) if storage is None else stored_status(name, storage)


def _nodes_at(address: str) -> list[LiveNode]:
    place = host_and_port(address)
    if place is None:
        raise CallError(f"--address {address}: expected auto, or HOST:PORT of the cluster, by default HOST:6379.")
    refuse_silence(place)
    return live_nodes(place)


def _lines_of_run(status: RunStatus) -> list[str]:
    """Say how a run stands, one subject per line."""
    last = f", last written {duration(max(0.0, time.time() - status.written))} ago" if status.written else ""
    lines = [f"{status.name}: {status.kind}, {status.state}; begun {status.began}{last}."]
    if status.problem:
        return [*lines, status.problem]
    if status.kind == "comparison":
        return [*lines, f"{counted(status.ended, 'fit')} ended.", *status.nodes_aside]
    by_state = ", ".join(f"{n} {state}" for state, n in status.states.items())
    of_all = f" of {status.wanted}" if status.wanted else ""
    lines.append(
        f"Trials: {status.ended}{of_all} ended ({by_state or 'none begun'}); {counted(status.epochs, 'epoch')}."
    )
    if status.best is not None:
        lines.append(
            f"Best: trial {status.best.trial}, validation macro F1 {status.best.f1:.4f} at epoch {status.best.epoch}."
        )
    if status.handed_over is not None:
        handed = status.handed_over
        bag = f", a bag of {handed.models} models" if handed.models > 1 else ""
        holdout = "not scored on the holdout" if handed.holdout is None else f"holdout {handed.holdout:.4f}"
        lines.append(f"Handed over: trial {handed.trial}{bag}; {holdout}.")
    for one in status.failures[:NAMED]:
        lines.append(": ".join(filter(None, [f"Trial {one.trial} {one.state}", one.message[:_LONGEST]])))
    more = len(status.failures) - NAMED
    return [*lines, *([f"... and {counted(more, 'failure')} more."] if more > 0 else []), *status.nodes_aside]


def _lines_of_nodes(nodes: list[LiveNode]) -> list[str]:
    """Say which nodes live, and what of each is in use."""
    lines = [f"Cluster: {states(nodes)}."]
    for node in nodes:
        used = ", ".join(f"{taken:g} of {there:g} {word} in use" for word, (taken, there) in node.used.items())
        what = (used or "no cores for trials") if node.is_alive else "dead"
        lines.append(f"  {node.address}{' (head)' if node.is_head else ''}: {what}")
    return lines


if __name__ == "__main__":
    run(main)
