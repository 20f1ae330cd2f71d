"""Where the cache of decoded photos and frozen features is, how large it may be, and whose it must be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from maskcls.files import expanded, may_access, temporary_home
from maskcls.stores.photo_limits import NOT_STATED, StatedLimits
from maskcls.stores.trust import check_private

DEFAULT_GB = 20.0


@dataclass(frozen=True)
class CacheOptions:
    """Where decoded photos and frozen features are kept, and how many GB of each.

    Args:
        path: the cache; None is the default of the machine that opens it, which need not be the machine that chose it.
        waits: whether decoded photos wait for room that others use, without a limit; if not, that is an error.
        limits: of the photos that are decoded, as the call states them.
        shared: whether others may write into it, because the call says that they are trusted.
    """

    path: Path | None = None
    pixel_gb: float = DEFAULT_GB
    feature_gb: float = DEFAULT_GB
    waits: bool = False
    limits: StatedLimits = NOT_STATED
    shared: bool = False

    @property
    def folder(self) -> Path:
        """The cache's folder on this machine. Raises CallError where others may write there, unless it is `shared`."""
        folder = expanded(self.path or default_cache()).absolute()
        if not self.shared:
            check_private(folder)
        return folder


def default_cache() -> Path:
    """Return $MASKCLS_CACHE, else ~/.cache/maskcls; where that cannot be made, a folder among the temporary files."""
    if stated := os.environ.get("MASKCLS_CACHE"):
        return Path(stated)
    folder = Path.home() / ".cache" / "maskcls"
    above = next(one for one in (folder, *folder.parents) if one.exists())
    # A cache that is there serves what it has, also where it may only be read.
    return folder if above == folder or may_access(above, os.W_OK | os.X_OK) else temporary_home() / "cache"
