"""How often a run's holdout was used, over all runs of its folder and `maskcls.evaluate`.

Counted by the digests of photos and split: what this run, other searches and ensembles noted in search.json (those of
earlier versions, too), and what is noted in holdout-uses.jsonl, which also remembers runs that were deleted. A
comparison leaves the holdout of its own split alone, but one with another split tests people of this one: it counts
once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from maskcls.data.splits import Split
from maskcls.errors import DataError
from maskcls.serving.holdout_uses import HoldoutUse, describe, different, read_uses
from tune.runs.folder import ComparisonRun, RunFolder, SearchRun
from tune.runs.holdout_record import holdout_evaluations

log = logging.getLogger("maskcls")


def holdout_uses(run: SearchRun | ComparisonRun) -> list[HoldoutUse]:
    """Every use of the holdout of the run's photos and split, the first of each bundle, oldest first."""
    data, split = digests(run)
    runs = run.path.parent
    uses = list(_noted_by(run)) if isinstance(run, SearchRun) else []
    if data and split:  # a run of which they are not known counts alone
        uses += read_uses(runs, data, split)
        for file in sorted(runs.glob(f"[!.]*/{SearchRun.record_name}")):
            uses += [use for use in _noted_by(SearchRun(file.parent)) if (use.data, use.split) == (data, split)]
        for file in sorted(runs.glob(f"[!.]*/{ComparisonRun.record_name}")):
            uses += _tested_by(ComparisonRun(file.parent), run, data, split)
    return different(uses)


def holdout_note(run: SearchRun) -> str:
    """A sentence on how many times the holdout was used."""
    return describe(holdout_uses(run))


def digests(run: SearchRun | ComparisonRun) -> tuple[str, str]:
    """The digests of a run's photos and split; "" where the run does not say them."""
    record = run.record()
    split = record.data.split_digest if isinstance(run, ComparisonRun) else run.record().split_digest
    return record.data.digest or "", split or ""


def _noted_by(run: SearchRun) -> Iterator[HoldoutUse]:
    """The uses in a search's own record; none, and a warning, where it cannot be read."""
    try:
        data, split = digests(run)
        evaluations = holdout_evaluations(run.record())
    except DataError as error:
        log.warning("Uses of the holdout by %s are not counted. %s", run.name, error)
        return
    for one in evaluations:
        yield HoldoutUse(data, split, one.bundle, run.name, one.when)


def _tested_by(comparison: ComparisonRun, run: RunFolder, data: str, split: str) -> Iterator[HoldoutUse]:
    """A use by a comparison of the same photos that tested people of the run's holdout, whose split is another."""
    try:
        own_data, own_split = digests(comparison)
        if own_data != data or own_split == split or not any(comparison.path.glob("fits/*/result.json")):
            return
        tested = {person for file in comparison.data.glob("repeats/*.json") for person in _holdout(file)}
        if tested & _holdout(run.data / "split.json"):
            name = f"comparison {comparison.name}"
            yield HoldoutUse(data, split, name, comparison.name, comparison.record().created)
    except DataError as error:
        log.warning("Whether comparison %s tested people of the holdout is not known. %s", comparison.name, error)


def _holdout(file: Path) -> set[str]:
    """The holdout of the split in a file."""
    return set(Split.load(file).holdout)
