"""The one pool of threads over photos, and the progress bar that belongs to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskcls.machine import usable_cores

Photo = TypeVar("Photo")
Result = TypeVar("Result")

AHEAD = 1024
"""Results that may wait to be taken, unless the caller wants fewer because they are large."""


def over_photos(
    work: Callable[[Photo], Result], photos: Sequence[Photo], *, threads: int | None = None, ahead: int = AHEAD
) -> Iterator[Result]:
    """`work` of each photo, in the photos' order, done in threads; what is waiting is dropped where the caller stops.

    Args:
        work: lets go of the interpreter for most of its time, as OpenCV does. Its first exception ends the iteration.
        threads: one per core that this process may use, unless the work waits for a disk rather than for a core.
        ahead: a bound on photos that are done, or being done, before their results are taken.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(usable_cores() if threads is None else threads)
    try:
        for photo in photos:
            waiting.append(pool.submit(work, photo))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def photo_bar(title: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, where that is a terminal and `shown` is true; yields what moves it on by some photos."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)
