"""Log lines of a worker name the trial: Ray reuses workers, so a log file's name does not say whose lines it has."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def naming_the_fit(run: str, trial: str) -> Iterator[None]:
    """Within the block, what the package logs goes to the worker's stderr, with run and trial before each line."""
    logger, handler = logging.getLogger("maskcls"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"run {run}, trial {trial}: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        logger.info("The fit begins.")
        yield
        logger.info("The fit ends.")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
