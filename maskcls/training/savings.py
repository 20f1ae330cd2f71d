"""What a fit saves by what fits share, and spends on it: decoded photos, frozen features that are computed already.

It is an estimate of computing time, of a fit without any cache, which decodes each photo that an epoch trains or
validates on, and sends it through the frozen stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maskcls.training.fit_data import FitData
from maskcls.training.frozen import CachedFeatures


class Savings:
    """Counts, epoch by epoch, features that were read instead of computed, the seconds that this saved, and those that
    went into stores.

    Args:
        caches: of the fit's models, where there are any.
    """

    def __init__(self, data: FitData, caches: Sequence[CachedFeatures | None]) -> None:
        self._data = data
        self._caches = {id(cache): cache for cache in caches if cache is not None}.values()
        self._hits = dict.fromkeys(map(id, self._caches), 0)
        self._filling_s = 0.0
        self.of_epoch: dict[str, Any] = {}
        """Of the last epoch: `feature_hits`, `saved_s` and `filling_s`; empty before the first."""

    def note_epoch(self, photos: int) -> None:
        """Take the numbers of an epoch that just ended.

        Args:
            photos: drawn in it, for all models.
        """
        hits, saved_s = 0, (photos + len(self._data.validation)) * self._data.decoding_s
        for cache in self._caches:
            # What was filled here is read as well, once or more often.
            now = max(self._hits[id(cache)], cache.read - cache.filled)
            fresh, self._hits[id(cache)] = now - self._hits[id(cache)], now
            hits += fresh
            saved_s += fresh * cache.seconds_each
        before, self._filling_s = self._filling_s, sum((cache.filling_s for cache in self._caches), 0.0)
        self.of_epoch = {"feature_hits": hits, "saved_s": saved_s, "filling_s": self._filling_s - before}
