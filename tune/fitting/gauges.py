"""Gauges of a fit on Ray's own metrics endpoint, and so on every dashboard that reads it.

`ray_maskcls_validation_f1`, `ray_maskcls_best_f1`, `ray_maskcls_epoch` and `ray_maskcls_photos_per_second`, tagged with
run, trial and backbone.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

GAUGES = {
    "validation_f1": "macro F1 over the validation people, 0 to 1",
    "best_f1": "the trial's best validation macro F1 so far, 0 to 1",
    "epoch": "epochs done",
    "photos_per_second": "photos trained per second",
}
PREFIX = "maskcls_"  # Ray puts its own before it
TAGS = ("run", "trial", "backbone")
# A gauge that is not set again for two of Ray's report intervals vanishes, though its trial lives.
_AGAIN_S = 1.0


class Gauges:
    """Sets a fit's gauges, from its first epoch to its end. To be used as a context; outside Ray it shows nothing."""

    def __init__(self, run: str, trial: str, backbone: str) -> None:
        self._tags = dict(zip(TAGS, (run, trial, backbone), strict=True))
        self._values: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=f"gauges-{trial}", daemon=True)

    def __enter__(self) -> Self:
        from ray.util.metrics import Gauge

        self._gauges = {name: Gauge(PREFIX + name, description=text, tag_keys=TAGS) for name, text in GAUGES.items()}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def set(self, report: Mapping[str, Any]) -> None:
        """Show these values from now on."""
        self._values = {name: float(report[name]) for name in GAUGES if name in report}
        self._show()

    def _repeat(self) -> None:
        while not self._ended.wait(_AGAIN_S):
            self._show()

    def _show(self) -> None:
        for name, value in self._values.items():
            self._gauges[name].set(value, tags=self._tags)
