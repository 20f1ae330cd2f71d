"""Which files of a search it can do without."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tune.runs.folder import DEFAULT_KEEP, SearchRun
from tune.runs.study import records
from tune.selection.keeping import Keeping, unneeded
from tune.upkeep.inventory import matching


def prunable(run: SearchRun, keep: int | None = None) -> list[tuple[Path, int]]:
    """Return the files that a search can do without, with their sizes in bytes.

    These are the weights that `tune.selection.keeping` does not keep, and all that Ray has written. Raises DataError
    where the journal is damaged: then nobody knows which trials are best.

    Args:
        keep: of how many trials the weights stay; None: as the run's own call says.
    """
    record = run.record()
    keeping = Keeping(keep or record.option("keep", DEFAULT_KEEP), record.option("finalists", 0))
    weights = [(file, file.lstat().st_size) for file in unneeded(run, records(run), keeping)]
    return [*weights, *matching(run.path, "experiment/**/*")]


def remove_all(files: Iterable[Path]) -> None:
    """Remove the files, one after the other."""
    for file in files:
        file.unlink(missing_ok=True)
