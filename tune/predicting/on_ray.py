"""`maskcls predict --ray`: the photos of a call predicted by the workers of a Ray cluster, with Ray Data.

A worker predicts whole blocks as `Predictor.blocks` cuts them, so each photo stands in the same padded pass as without
Ray, and its probabilities are the same to the bit where a worker has the same instruction set and as many threads. The
blocks come back in their order to the caller's process, which keeps them and writes the tables as it does without Ray.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from maskcls.data.decoding.decode import Photo
from maskcls.errors import RunError
from maskcls.labels import N_CLASSES
from maskcls.machine import set_threads, usable_cores
from maskcls.serving.engine import Name, create_engine
from maskcls.serving.predicting.unfinished import Block
from maskcls.serving.predictor import Predictor
from maskcls.stores.photo_limits import StatedLimits, limits
from maskcls.text import counted, first
from tune.runs.cluster import Cluster, connected
from tune.runs.nodes import problems_of

BLOCK_PHOTOS = 64
"""Photos of a block: those of a pass, as `Predictor` has them with every engine."""
TASK_BLOCKS = 4
"""Blocks that a worker is given at a time: seconds of work, so that what Ray does for each costs little."""


class _Remote:
    """Stands for the engine, which only the workers have."""

    block = BLOCK_PHOTOS

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = device

    def probabilities(self, pixels: object, block_photos: int = BLOCK_PHOTOS) -> NDArray[np.float64]:
        raise NotImplementedError("Only workers predict.")


class RayPredictor(Predictor):
    """A predictor whose `blocks` are predicted by Ray's workers. It must be used as a context.

    Args:
        bundle: its folder, which all nodes see under this path, as they see the photos.
        device: `auto` (GPUs where the cluster has any, one for each worker), `cpu` or `cuda`.
        address: of the cluster; None: Ray is started here.
        engine, flip, abstain, face_check: as `Predictor` has them.

    Raises as `Predictor`, and RunError where Ray cannot be reached, or nodes do not see the bundle.
    """

    def __init__(
        self, bundle: Path, device: str = "auto", *, address: str | None = None, engine: str = "torch", **settings: Any
    ) -> None:
        super().__init__(bundle, engine=_Remote(engine, device), **settings)
        if engine != Name.TORCH:  # what it lacks is said here, before Ray is started
            create_engine(self.bundle, engine, device, flip=self.flip)
        self.nodes: set[str] = set()
        """Ids of the nodes that have predicted something."""
        self._connection = connected(address)
        self._cluster = self._connection.__enter__()
        self._gpus = 0 if device == "cpu" or engine != Name.TORCH else int(self._cluster.gpus > 0)
        self.engine.device = self.device = "cuda" if self._gpus else "cpu"

    def close(self) -> None:
        """Leave Ray, or stop it if it was started here."""
        self._connection.__exit__(None, None, None)

    def blocks(
        self, photos: Sequence[Photo], *, start: int = 0, skip_bad: bool = False
    ) -> Generator[Block, None, None]:
        """Predict the photos from row `start` on, by the workers; the blocks come in their order.

        Args:
            photos: files.

        Raises RunError where nodes do not see the files, or a worker fails.
        """
        import ray
        import ray.data
        import ray.exceptions

        _quieten_ray_data()
        files = cast("Sequence[str]", photos)
        if start == len(files):
            return
        self._check_nodes(files[start:])
        cpus, workers = self._share(self._cluster, len(files) - start)
        dataset = ray.data.from_arrow(_tables(files, start)).map(
            _Worker,
            fn_constructor_args=(self._settings(cpus),),
            num_cpus=cpus,
            num_gpus=self._gpus,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        dataset.context.execution_options.preserve_order = True
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        try:
            with closing(iter(dataset.iter_rows())) as rows:
                for row in rows:
                    self.nodes.add(row["node"])
                    yield _block_of(row)
        except ray.exceptions.RayError as error:
            said = str(getattr(error, "cause", None) or error).strip().splitlines()
            raise RunError(f"A worker of Ray could not predict: {said[-1] if said else error!r}") from None

    def _settings(self, cpus: int) -> dict[str, Any]:
        """What a worker is made of."""
        return {
            "folder": Path.cwd(),
            "limits": limits(),
            "threads": cpus,
            "predictor": {
                "bundle": self.bundle.folder,
                "device": self.device,
                "flip": self.flip,
                "engine": self.engine.name,
                "face_check": self._detector is not None,
            },
        }

    def _share(self, cluster: Cluster, photos: int) -> tuple[int, int]:
        """CPUs of a worker, and how many workers there are at most.

        A worker has as many CPUs as a call without Ray uses threads; one with a GPU has its GPU's share of the node.
        """
        wanted = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
        shares = [node.cpus // max(1, int(node.gpus)) for node in cluster.nodes if node.gpus]
        at_most = shares if self._gpus else [wanted, *(node.cpus for node in cluster.nodes if node.cpus)]
        cpus = max(1, min(at_most))
        tasks = -(-photos // (TASK_BLOCKS * BLOCK_PHOTOS))
        return cpus, max(1, min(cluster.room(cpus, self._gpus), tasks))

    def _check_nodes(self, files: Sequence[str]) -> None:
        """Raise RunError where a node does not see the bundle, or the first photo that this machine sees."""
        photo = next((path for path in map(Path, files[:BLOCK_PHOTOS]) if path.exists()), self.bundle.folder)
        problems = problems_of([self.bundle.folder.absolute(), photo.absolute()])
        if problems:
            named = first(sorted(map(str, problems)), 3)
            raise RunError(
                f"{counted(len(problems), 'node')} of the cluster cannot take part: {named}. All "
                "nodes must see the bundle and the photos under the same paths: put them on a file system that they "
                "share, or start Ray without these nodes."
            )


class _Worker:
    """Predicts blocks in a worker of Ray."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import ray

        with suppress(OSError):  # where photos are named by whole paths, another folder does as well
            os.chdir(settings["folder"])
        found = settings["limits"]
        StatedLimits(found.megapixels, found.aspect).apply()
        if settings["predictor"]["engine"] == Name.TORCH:
            set_threads(settings["threads"])
        os.environ["OMP_NUM_THREADS"] = str(settings["threads"])
        self._predictor = Predictor(**settings["predictor"])
        self._node = str(ray.get_runtime_context().get_node_id())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        files = [os.fsdecode(file) for file in row["files"]]
        (block,) = self._predictor.blocks(files, skip_bad=True)
        return {
            "start": row["start"],
            "probabilities": block.probabilities.astype("<f8").tobytes(),
            "bad": json.dumps(list(block.bad.items())),
            "faces_missed": block.faces_missed,
            "faces": json.dumps(block.faces),
            "node": self._node,
        }


def _quieten_ray_data() -> None:
    """Let Ray Data report to its log file, and to whom the caller has had listen; not to the terminal by itself."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # as Ray Data names it when it is imported; others are the caller's own
            handler.setLevel(logging.CRITICAL)


def _tables(files: Sequence[str], start: int) -> list[Any]:
    """What the workers are given: in each row the files of a block, and its first one's place among all."""
    import pyarrow as pa

    step = TASK_BLOCKS * BLOCK_PHOTOS
    tables = []
    for begin in range(start, len(files), step):
        starts = range(begin, min(begin + step, len(files)), BLOCK_PHOTOS)
        # As bytes: a name need not be UTF-8.
        names = [[os.fsencode(file) for file in files[at : at + BLOCK_PHOTOS]] for at in starts]
        columns = {"start": pa.array(starts, pa.int64()), "files": pa.array(names, pa.list_(pa.binary()))}
        tables.append(pa.table(columns))
    return tables


def _block_of(row: dict[str, Any]) -> Block:
    """The inverse of what a worker returns."""
    start = int(row["start"])
    probabilities = np.frombuffer(row["probabilities"], "<f8").reshape(-1, N_CLASSES).astype(np.float64)
    bad = {start + place: said for place, said in json.loads(row["bad"])}
    return Block(start, probabilities, bad, int(row["faces_missed"]), tuple(json.loads(row["faces"])))
