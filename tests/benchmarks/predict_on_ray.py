"""`python -m tests.benchmarks.predict_on_ray`: photos per second of `maskcls predict --ray` with one node and with two.

The nodes are on this machine (`ray.cluster_utils.Cluster`), with a CPU and so a thread each, and share its cores and
its disk; so two nodes can be at most twice as fast as one, and where the cores have other work, less. Beside them, in
the same run: predicting the same files in this process, with one thread of torch as well. The predictions must be the
same to the bit. With Ray, the time behind the first task of each node is measured; how long these took, with the
workers' start, is printed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from maskcls import cli
from maskcls.cli import run
from maskcls.data.demo.folder import draw
from maskcls.data.photos import read_photos
from maskcls.machine import set_threads
from maskcls.serving.predicting.unfinished import Block
from maskcls.serving.predictor import Predictor
from tests.benchmarks.prediction import new_bundle
from tests.benchmarks.report import summary, table, write
from tune.predicting.on_ray import BLOCK_PHOTOS, TASK_BLOCKS, RayPredictor
from tune.runs.cluster import quiet


class Predicted(NamedTuple):
    """What a cluster gave."""

    probabilities: NDArray[np.float64]
    rate: float
    """Photos per second behind the first task of each node."""
    start_s: float
    """Until these tasks' end."""
    nodes: int
    """That predicted."""


def main(
    data: cli.Data = None,
    backbone: Annotated[str, typer.Option(help="timm model name.")] = "resnet10t",
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    photos: Annotated[int, typer.Option(help="Photos, each round; more than a task's.")] = 2048,
    rounds: Annotated[int, typer.Option(help="Rounds of the three, alternating.")] = 3,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path(
        "runs/benchmarks/predict_on_ray.json"
    ),
) -> None:
    """Measure this process, one node and two nodes."""
    quiet()
    os.environ["OMP_NUM_THREADS"] = "1"
    set_threads(1)
    measured: dict[str, list[float]] = {}
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        files = _files(data, Path(folder), photos)
        bundle = new_bundle(Path(folder) / "bundle", backbone, "none", image_size)
        plain = Predictor(bundle, "cpu")
        plain.probabilities(files[:BLOCK_PHOTOS])
        for _ in range(rounds):
            began = perf_counter()
            expected = plain.probabilities(files)
            measured.setdefault("without Ray", []).append(len(files) / (perf_counter() - began))
            for nodes in (1, 2):
                found = predicted(bundle, files, nodes)
                if found.nodes != nodes or not np.array_equal(found.probabilities, expected):
                    raise SystemExit(f"With {nodes} nodes {found.nodes} predicted, or something else came out.")
                measured.setdefault(f"nodes: {nodes}", []).append(found.rate)
                starts.append(found.start_s)
    results: dict[str, Any] = {name: summary(rates) for name, rates in measured.items()}
    print(table(results))
    print(f"until the first tasks' end: {min(starts):.1f} to {max(starts):.1f} s, n = {len(starts)}")
    print("the same to the bit, with one node and with two")
    write(out, {**results, "start, s": summary(starts)}, photos=len(files), backbone=backbone, image_size=image_size)


def predicted(bundle: Path, files: Sequence[str], nodes: int, *, dies: bool = False) -> Predicted:
    """Predict files on a cluster of so many nodes.

    Args:
        dies: end the last node when the first block has come.
    """
    with cluster_of(nodes) as cluster:
        predictor = RayPredictor(bundle, "cpu", address=cluster.address)
        began = perf_counter()
        blocks: list[Block] = []
        times: list[float] = []
        with closing(predictor):
            for block in predictor.blocks(files, skip_bad=True):
                if dies and not blocks:
                    cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
                blocks.append(block)
                times.append(perf_counter() - began)
        # While the first task came, each other node did one as well, so those are not counted.
        first = max(1, min(nodes * TASK_BLOCKS, len(times) - 1))
        behind = sum(len(block.probabilities) for block in blocks[first:])
        first_s = times[first - 1]
        rate = behind / max(times[-1] - first_s, 1e-9)
        return Predicted(np.concatenate([b.probabilities for b in blocks]), rate, first_s, len(predictor.nodes))


@contextmanager
def cluster_of(nodes: int) -> Iterator[Any]:
    """A cluster of nodes with a CPU each, all on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def _files(data: Path | None, place: Path, photos: int) -> list[str]:
    """So many files, some of them again if there are fewer."""
    if data is None:
        draw(place / "faces", 20, seed=0)
    found = read_photos(data or place / "faces")["file"].tolist()
    return [found[number % len(found)] for number in range(photos)]


if __name__ == "__main__":
    run(main)
