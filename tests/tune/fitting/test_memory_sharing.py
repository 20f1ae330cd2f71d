"""No more fits at a time than the memory holds, and what is said of it."""

from __future__ import annotations

import pytest

from maskcls.recipe import Recipe
from tune.fitting.memory_sharing import REST_BYTES, share_memory
from tune.runs.cluster import Cluster, Node
from tune.runs.options import SharedOptions
from tune.runs.shares import Demand, Share

GB = 10**9
SMALL = Recipe(backbone="resnet10t", image_size=112, batch_size=32, frozen_stages=0)
LARGE = Recipe(backbone="resnet50", image_size=256, batch_size=64, frozen_stages=0)
MACHINE = Cluster((Node(8, 0.0),))
CONTAINER_BYTES = REST_BYTES + 4 * GB


def shared(
    planned: Share, *, free: int = CONTAINER_BYTES, machine: Cluster = MACHINE, **options: object
) -> tuple[Share, list[str]]:
    """Of fits that take 1 GB and, the largest, 1.5 GB."""
    taken = {SMALL.backbone: GB, LARGE.backbone: 3 * GB // 2}
    return share_memory(
        planned,
        Demand([SMALL, LARGE], SharedOptions(**options), machine, "cpu", 8, "trial"),  # type: ignore[arg-type]
        available=free,
        measure=lambda recipe: taken[recipe.backbone],
    )


def test_a_container_of_little_memory_gets_fewer_at_a_time_with_more_cores_each() -> None:
    found, (note,) = shared(Share(8, 1, 0.0))
    assert found == Share(2, 4, 0.0)
    assert note == (
        "2 at a time instead of 8: 5.7 GB of memory are free, and resnet50 at 256 px, batches of 64, takes about "
        "1.5 GB per trial. --parallel overrules it."
    )


def test_what_is_stated_stays_and_is_warned_of() -> None:
    stated = Share(4, 2, 0.0)
    found, (note,) = shared(stated, parallel=4)
    assert found == stated
    assert note.startswith("Memory may run out: 5.7 GB of memory are free")
    assert note.endswith("4 at a time with Ray need 7.7 GB. --parallel 2 fits.")
    found, (note,) = shared(Share(1, 8, 0.0), free=2 * GB)
    assert found.parallel == 1, "one is tried in any case"
    assert note.endswith("A smaller --set batch_size may help.")


@pytest.mark.parametrize(
    ("planned", "changed"),
    [
        (Share(2, 4, 0.0), {}),
        (Share(8, 1, 0.0), {"free": 2_000 * GB}),
        (Share(8, 1, 0.5), {}),
        (Share(8, 1, 0.0), {"machine": Cluster((Node(8, 0.0), Node(8, 0.0)))}),
    ],
    ids=["all fit", "plenty", "on a GPU", "other nodes"],
)
def test_else_it_is_as_planned_and_nothing_is_said(planned: Share, changed: dict[str, object]) -> None:
    assert shared(planned, **changed) == (planned, [])  # type: ignore[arg-type]
