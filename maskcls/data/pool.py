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
"""How many results may wait to be taken; callers with large results choose fewer."""


def over_photos(
    work: Callable[[Photo], Result], photos: Sequence[Photo], *, threads: int | None = None, ahead: int = AHEAD
) -> Iterator[Result]:
    """Yield `work` of each photo, in the photos' order; the work is done in threads.

    If the caller stops early, photos that wait are dropped.

    Args:
        work: releases the interpreter for most of its time, as OpenCV does. Its first exception ends the iteration.
        threads: default: one per core that this process may use. More only for work that waits for a disk.
        ahead: bound on the photos that are done, or being done, before their results are taken.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(usable_cores() if threads is None else threads)
    try:
        for photo in photos:
            waiting.append(pool.submit(work, photo))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()  # waits for the oldest, whose result comes next
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def photo_bar(title: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, if that is a terminal and `shown` is true; yield a function that advances it."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda n: None
        return
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)
