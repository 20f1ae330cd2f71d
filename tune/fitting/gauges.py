"""Metrics on Ray's own endpoint, and so on every dashboard that reads it: of each fit, and of a search as a whole.

A fit sets the gauges of FIT_GAUGES and counts FIT_COUNTERS, tagged with run, trial, backbone and split (its task
split). Workers are reused, so that a worker's name does not say which trial it works on; the tag does. A search sets
`trials`, tagged with run and state, and counts `failures`, tagged with run and kind. Ray puts `ray_` before
`maskcls_`, and `_total` after a counter.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

FIT_GAUGES = {
    "validation_f1": "macro F1 over the validation people, 0 to 1",
    "best_f1": "the trial's best validation macro F1 so far, 0 to 1",
    "train_loss": "mean training loss of the epoch",
    "epoch": "epochs done",
    "photos_per_second": "photos trained per second",
    "wait_share": "share of the training time that waits for data, 0 to 1",
    "gpu_memory_bytes": "memory that the process holds on its GPU",
}
FIT_COUNTERS = {"feature_hits": "photos whose frozen features were read instead of computed"}
FIT_TAGS = ("run", "trial", "backbone", "split")
TRIALS, FAILURES = "trials", "failures"
WORKER_DIED = "worker died"
"""Kind of a failure after which the trial is tried again; other kinds are a trial's states."""
PREFIX = "maskcls_"  # Ray puts its own before it
# A gauge that is not set again for two of Ray's report intervals vanishes, though its trial lives.
_AGAIN_S = 1.0
_Tags = tuple[tuple[str, str], ...]


class _Gauges:
    """Sets gauges again and again, from the first value to the end of the block. Outside Ray it shows nothing.

    Args:
        described: what each gauge says.
        tags: the names of their tags.
    """

    def __init__(self, described: Mapping[str, str], tags: tuple[str, ...]) -> None:
        self._described, self._tag_names = described, tags
        self._values: dict[tuple[str, _Tags], float] = {}
        self._gauges: dict[str, Any] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="gauges", daemon=True)

    def __enter__(self) -> Self:
        from ray.util.metrics import Gauge

        self._gauges = {
            name: Gauge(PREFIX + name, description=text, tag_keys=self._tag_names)
            for name, text in self._described.items()
        }
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._set_all()

    def _keep(self, values: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Show these values from the next time on that the gauges are set."""
        with self._lock:
            self._values |= {(name, tuple(tags.items())): value for name, value in values.items()}

    def _repeat(self) -> None:
        while not self._ended.wait(_AGAIN_S):
            self._set_all()

    def _set_all(self) -> None:
        with self._lock:
            values = dict(self._values)
        for (name, tags), value in values.items():
            if name in self._gauges:  # else the block has not begun
                self._gauges[name].set(value, tags=dict(tags))


class FitGauges(_Gauges):
    """Shows a fit's numbers, from its first epoch to its end. To be used as a context."""

    def __init__(self, run: str, trial: str, recipe: Mapping[str, Any]) -> None:
        super().__init__(FIT_GAUGES, FIT_TAGS)
        values = (run, trial, str(recipe.get("backbone", "")), str(recipe.get("task_split", "")))
        self._tags = dict(zip(FIT_TAGS, values, strict=True))

    def __enter__(self) -> Self:
        from ray.util.metrics import Counter

        self._counters = {
            name: Counter(PREFIX + name, description=text, tag_keys=FIT_TAGS) for name, text in FIT_COUNTERS.items()
        }
        return super().__enter__()

    def set(self, row: Mapping[str, Any], *, is_new: bool = True) -> None:
        """Show an epoch's row from now on.

        Args:
            is_new: whether the epoch was trained just now, and is to be counted.
        """
        values = {name: float(row[name]) for name in FIT_GAUGES if isinstance(row.get(name), int | float)}
        self._keep(values | gpu_memory(), self._tags)
        self._set_all()
        for name, counter in self._counters.items():
            if is_new and row.get(name):
                counter.inc(float(row[name]), tags=self._tags)


class SearchGauges(_Gauges):
    """Shows how many trials of a search are in which state, and counts failures. To be used as a context."""

    def __init__(self, run: str) -> None:
        super().__init__({TRIALS: "trials of the search by state"}, ("run", "state"))
        self._run = run
        self._failures: Any = None

    def __enter__(self) -> Self:
        from ray.util.metrics import Counter

        self._failures = Counter(
            PREFIX + FAILURES, description="trials and workers that failed", tag_keys=("run", "kind")
        )
        return super().__enter__()

    def set(self, trials: Mapping[str, int]) -> None:
        """Show the number of trials by state from the next second on: a search may end hundreds of trials in one."""
        for state, number in trials.items():
            self._keep({TRIALS: float(number)}, {"run": self._run, "state": state})

    def count_failure(self, kind: str) -> None:
        """Count a trial that failed, by its state, or a worker that died."""
        if self._failures is not None:
            self._failures.inc(1.0, tags={"run": self._run, "kind": kind})


def gpu_memory() -> dict[str, float]:
    """Return the gauge of the memory that torch holds on this process's GPU; nothing where it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {}
    return {"gpu_memory_bytes": float(torch.cuda.memory_reserved())}
