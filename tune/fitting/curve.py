"""A fit's curve: its epochs with the running best, each kept in the fit's folder before it is reported."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from maskcls.errors import Diverged
from maskcls.files import FileKind, append_line, number_of, parse_object, share_of, write_atomically
from maskcls.training.metrics import Scores
from tune.fitting.request import FitRequest, Row
from tune.states import FIDELITY, METRIC

CURVE = "epochs.jsonl"
CURVE_FILE = FileKind(
    "one JSON object per epoch and line",
    "Restore it from a backup, or move it away: a resume of the fit writes it again from its checkpoint.",
)
NUMBERS = {"best_epoch", "seconds", "epoch_seconds", "train_loss", "photos", "photos_per_second", "wait_share"}
"""Of a row, beside its epoch and scores."""
NO_EPOCH: Row = {FIDELITY: 0, METRIC: 0.0, "validation_f1": 0.0, "best_epoch": 0, "seconds": 0.0}
"""Stands for the last row of a curve that has none."""


def curve(request: FitRequest, work: Callable[[FitRequest], Iterator[Row]]) -> Iterator[Row]:
    """Yield the work's epochs with the running best, each kept in CURVE first.

    Raises Diverged on a score that is not finite.
    """
    kept = {row[FIDELITY]: row for row in read_curve(request.folder)}
    best, best_epoch, seconds, began = -math.inf, 0, 0.0, time.perf_counter()
    for result in work(request):
        epoch, f1 = int(result[FIDELITY]), float(result["validation_f1"])
        if not math.isfinite(f1):
            raise Diverged(f"The validation F1 of epoch {epoch} is {f1}.")
        if f1 > best:
            best, best_epoch = f1, epoch
        now = time.perf_counter()
        # An epoch that is yielded again took no time now; what it took stands in the file.
        recorded = kept[epoch]["epoch_seconds"] if epoch in kept else now - began
        took = result.get("seconds")
        took = float(recorded if took is None else took)
        seconds, began = seconds + took, now
        row = {**result, METRIC: best, "best_epoch": best_epoch, "epoch_seconds": took, "seconds": seconds}
        if epoch not in kept or {**kept[epoch], **row} != kept[epoch]:
            _save_row(request.folder / CURVE, kept, row)
        yield {**row, "finished": epoch >= int(request.recipe["epochs"])}


def _save_row(file: Path, kept: dict[int, Row], row: Row) -> None:
    """Put a row into the file and into what it holds. Where an earlier row changed, the file is written again whole."""
    follows = all(epoch < row[FIDELITY] for epoch in kept)
    kept[row[FIDELITY]] = row
    if follows:
        append_line(file, json.dumps(row))
    else:
        write_atomically(file, "".join(json.dumps(kept[epoch]) + "\n" for epoch in sorted(kept)))


def read_curve(folder: Path) -> list[Row]:
    """A fit's epochs so far, in order; empty where none is done. Raises Damaged."""
    return CURVE_FILE.read_lines(folder / CURVE, _row_of)


def _row_of(line: bytes) -> Row:
    """Return the epoch that a line holds. Raises ValueError and the like where it holds something else."""
    row = parse_object(line)
    if not isinstance(row[FIDELITY], int) or row[FIDELITY] < 1:
        raise ValueError(f"{row[FIDELITY]!r} is no epoch")
    for name in (METRIC, "validation_f1"):
        share_of(row[name])
    for name in NUMBERS & row.keys():
        if row[name] is not None:
            number_of(row[name])
    if row.get("scores") is not None:
        scores = Scores.from_dict(row["scores"])
        for value in (scores.f1, scores.accuracy, *scores.task_f1.values()):
            share_of(value)
    return row
