"""leaderboard.csv: each trial of a run once, best first, from the study's record."""

import csv
import io
import json
from collections.abc import Iterable

from maskcls.files import write_atomically
from tune.run_dir import RunDir
from tune.study import PRESET, Record

COLUMNS = (
    "rank",
    "trial",
    "state",
    "best_validation_f1",
    "best_epoch",
    "epochs",
    "seconds",
    "origin",
    "overrides",
    "message",
)


def ranked(records: Iterable[Record]) -> list[Record]:
    """Best validation macro F1 first, the earlier trial first of equals, trials without an epoch last."""
    return sorted(records, key=lambda record: (record.f1 is None, -(record.f1 or 0.0), record.trial_id))


def best(records: Iterable[Record]) -> Record | None:
    """The trial with the highest validation macro F1; None where no trial has an epoch."""
    first = next(iter(ranked(records)), None)
    return first if first is not None and first.f1 is not None else None


def preset(records: Iterable[Record]) -> Record | None:
    """Trial 0, the preset's recipe."""
    return next((record for record in records if record.origin == PRESET), None)


def write(run: RunDir, records: Iterable[Record]) -> None:
    """Rewrite leaderboard.csv whole."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for rank, record in enumerate(ranked(records), start=1):
        scored = record.f1 is not None
        table.writerow(
            (
                rank if scored else "",
                record.trial_id,
                record.state,
                f"{record.f1:.6f}" if scored else "",
                record.best_epoch or "",
                record.epochs,
                f"{record.seconds:.1f}",
                record.origin,
                json.dumps(record.overrides, sort_keys=True),
                record.message,
            )
        )
    write_atomically(run.leaderboard, text.getvalue())
