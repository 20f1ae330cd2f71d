"""A fit's curve: its epochs with the running best, each kept in the fit's folder before anybody is told."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskcls.errors import Diverged
from maskcls.files import append_line, whole_lines, write_atomically
from tune.fitting.request import Objective, TrialRequest
from tune.states import FIDELITY, METRIC

CURVE = "epochs.jsonl"


def curve(request: TrialRequest, objective: Objective) -> Iterator[dict[str, Any]]:
    """The objective's epochs with the running best, each kept in CURVE before it is yielded. Raises Diverged on a nan."""
    kept = {row[FIDELITY]: row for row in read_curve(request.folder)}
    best, best_epoch, seconds, began = -math.inf, 0, 0.0, time.perf_counter()
    for result in objective(request):
        epoch, f1 = int(result[FIDELITY]), float(result["validation_f1"])
        if not math.isfinite(f1):
            raise Diverged(f"The validation F1 of epoch {epoch} is {f1}.")
        if f1 > best:
            best, best_epoch = f1, epoch
        now = time.perf_counter()
        # An epoch that is yielded again took no time now; what it took stands in the file.
        took = float(result.get("seconds", kept.get(epoch, {}).get("epoch_seconds", now - began)))
        seconds, began = seconds + took, now
        row = {**result, METRIC: best, "best_epoch": best_epoch, "epoch_seconds": took, "seconds": seconds}
        if epoch not in kept or {**kept[epoch], **row} != kept[epoch]:
            _save_row(request.folder / CURVE, kept, row)
        yield {**row, "finished": epoch >= int(request.recipe["epochs"])}


def _save_row(file: Path, kept: dict[int, dict[str, Any]], row: dict[str, Any]) -> None:
    """Put a row into the file and into what it holds. Only a row that changed has the file written anew."""
    follows = all(epoch < row[FIDELITY] for epoch in kept)
    kept[row[FIDELITY]] = row
    if follows:
        append_line(file, json.dumps(row))
    else:
        write_atomically(file, "".join(json.dumps(kept[epoch]) + "\n" for epoch in sorted(kept)))


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """A trial's epochs so far, in order; empty where none is done."""
    return [json.loads(line) for line in whole_lines(folder / CURVE)]
