"""Rough estimates for `--plan`: how many photos there are, how long fits take, and how much disk they fill."""

from __future__ import annotations

from pathlib import Path

# One fit on one thread or one GPU. CPU: resnet10t, all stages trained, one core of a busy machine
# (search_spaces.backbones has more). GPU: the order of magnitude of a ResNet-50 in bfloat16; nothing more is claimed.
PHOTOS_PER_SECOND = {"cpu": (65, 112), "gpu": (1000, 256)}
"""(photos per second, edge in px), by scale."""
DEMO_PHOTOS = 1_680


def count_photos(data: Path | None, skip_bad: bool) -> int:
    """How many photos would be read. Raises DataError for a wrong table, or files that it does not name."""
    if data is None:
        return DEMO_PHOTOS
    from maskcls.data.photos import read_contest

    return len(read_contest(data, skip_bad=skip_bad))


def gigabytes(n_bytes: float) -> str:
    """`2.5 GB`, or `80 MB` where that says more."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
