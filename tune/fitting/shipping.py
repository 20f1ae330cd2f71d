"""Decoded photos for nodes that do not see the photos: their cache is filled once, from the driver's, through Ray.

The driver's node keeps an actor, which decodes the photos into the driver's own cache as a fit there does, and hands
out rows. A worker whose node has neither the photos nor their decoded rows asks it for some hundred rows at a time and
writes the store of its own cache from them; all other workers of the node wait for that, or find it done. Where this
is cut, the next worker compares what came with its checksums, and asks for the rest.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcls.errors import OutOfReach

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maskcls.stores.cache_options import CacheOptions

AT_A_TIME = 256
"""Photos in an answer: 38 MB at 224 px."""
_ANSWER_S = 600.0
"""How long the driver's node may take to decode, and to answer."""


class PixelServer:
    """Hands out decoded photos of a run. Runs as an actor on the driver's node.

    Args:
        data: the run's data/.
    """

    def __init__(self, data: Path, cache: CacheOptions) -> None:
        from maskcls.data.dataset import FaceDataset

        cache.limits.apply()
        self._faces = FaceDataset.load(data, cache)

    def rows(self, image_size: int, face_crop: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Return the pixels of these rows of the photo table, (stop - start, image_size, image_size, 3)."""
        import numpy as np

        return np.array(self._faces.pixels(image_size, face_crop=face_crop)[start:stop])


@dataclass(frozen=True)
class ShippedPixels:
    """Where a worker gets decoded photos that its node cannot decode (`maskcls.stores.given.PixelSource`)."""

    run: Path

    @property
    def is_there(self) -> bool:
        """Whether the run's driver hands out decoded photos."""
        import ray

        if not ray.is_initialized():
            return False
        try:
            ray.get_actor(name_of(self.run))
        except ValueError:
            return False
        return True

    def rows(
        self, image_size: int, face_crop: str, n_photos: int, first: int
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the rows from `first` on, some at a time, each after the number of its first. Raises OutOfReach."""
        import ray

        server = ray.get_actor(name_of(self.run))
        starts = range(first, n_photos, AT_A_TIME)
        # One answer is on its way while the one before is written, and no more: memory is the fits'.
        ask = [functools.partial(server.rows.remote, image_size, face_crop, at, at + AT_A_TIME) for at in starts]
        try:
            coming = ask[0]()
            for start, following in zip(starts, [*ask[1:], None], strict=True):
                part, coming = coming, following() if following else None
                yield start, ray.get(part, timeout=_ANSWER_S)
        except ray.exceptions.RayError as error:
            said = " ".join(str(error).split())[-200:]
            raise OutOfReach(f"The driver's node did not hand out the decoded photos: {said}") from None


def name_of(run: Path) -> str:
    """The actor's name."""
    return f"maskcls-pixels-{hashlib.sha256(str(run).encode()).hexdigest()[:16]}"


@contextmanager
def shipping(run: Path, cache: CacheOptions, *, wanted: bool) -> Iterator[None]:
    """Within the block, hand out the run's decoded photos to the nodes of Ray's cluster, if that is wanted.

    Ray must be connected.
    """
    if not wanted:
        yield
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: Callable[..., Any] = ray.remote(PixelServer).options
    actor = options(name=name_of(run), num_cpus=0, max_restarts=3, scheduling_strategy=here)
    server = actor.remote(run / "data", cache)
    try:
        yield
    finally:
        ray.kill(server)
