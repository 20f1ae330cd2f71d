"""Estimates before anything is begun: how many photos there are, how long fits take, and how much disk they fill."""

from __future__ import annotations

import math
from collections.abc import Collection

from maskcls.errors import CallError
from tune.runs.options import SharedOptions

# One fit on one thread or one GPU. CPU: resnet10t, all stages trained, one core of a busy machine
# (search_spaces.backbones has more). GPU: the order of magnitude of a ResNet-50 in bfloat16; nothing more is claimed.
PHOTOS_PER_SECOND = {"cpu": (65, 112), "gpu": (1000, 256)}
"""(photos per second, edge in px), by scale."""
DEMO_PHOTOS = 1_680
MANIFEST_BYTES = 10_000
"""More than a store of decoded photos takes beside the pixels."""


def count_photos(options: SharedOptions) -> int:
    """How many photos would be read. Raises DataError for a wrong table, or files that it does not name."""
    sources = [data for data in (options.photos, options.extra_photos) if data is not None]
    drawn = DEMO_PHOTOS if options.data is None else 0
    if not sources:
        return drawn
    from maskcls.data.photos import read_photos

    return drawn + sum(
        len(read_photos(data, skip_bad=options.skip_bad, people_from=options.people_from)) for data in sources
    )


def decoded_bytes(photos: int, image_size: int) -> int:
    """The size of a store of photos decoded to that edge in px, exactly but for its manifest."""
    return photos * image_size**2 * 3 + MANIFEST_BYTES


def pixel_room(
    geometries: Collection[tuple[int, str]], photos: int, budget_gb: float, *, at_a_time: int, unit: str
) -> list[str]:
    """What is to be said of the room that decoded photos need, in no line or one.

    Args:
        geometries: image size in px and face crop of all fits that there may be: each is decoded into its own store.
        budget_gb: of --pixel-store-gb.
        at_a_time: fits that may run at a time, and so stores that may be in use at a time.
        unit: what a fit is called, as in `trial`.

    Raises CallError where one store alone needs more than the budget: its fits could not run.
    """
    needs = sorted((decoded_bytes(photos, size) for size, _ in geometries), reverse=True)
    budget = budget_gb * 1e9
    largest = max(size for size, _ in geometries)
    if needs[0] > budget:
        raise CallError(
            f"{photos:,} photos decoded to {largest} px need {gigabytes(needs[0])}, but --pixel-store-gb allows "
            f"{budget_gb:g} GB. Raise it to {_rounded_up(needs[0])} or more, or choose a smaller --image-size."
        )
    if sum(needs) <= budget:
        return []
    sizes = ", ".join(str(size) for size in sorted({size for size, _ in geometries}))
    if sum(needs[:at_a_time]) > budget:
        meanwhile = f"a {unit} may have to wait until others no longer use theirs, and photos are decoded repeatedly"
    else:
        meanwhile = "photos are decoded repeatedly"
    return [
        f"Decoded photos of all {len(needs)} kinds (at {sizes} px) need {gigabytes(sum(needs))}, but --pixel-store-gb "
        f"allows {budget_gb:g} GB: {meanwhile}. --pixel-store-gb {_rounded_up(sum(needs))} avoids that."
    ]


def gigabytes(n_bytes: float) -> str:
    """`2.5 GB`, or `80 MB` where that says more."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"


def _rounded_up(n_bytes: int) -> str:
    """Gigabytes, to the next tenth: rounded down, the budget that a message names would not suffice."""
    return f"{math.ceil(n_bytes / 1e8) / 10:g}"
