"""leaderboard.csv: one row per trial of a run, best first. LiveRanking is the same for a search that is running."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable

import optuna

from maskcls.errors import Damaged
from maskcls.files import FileKind, as_it_was, no_formulas, number_of, parse_object, write_csv
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import storage_of
from tune.runs.study import PRESET, Record, begun, record
from tune.states import TrialState

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
LEADERBOARD_FILE = FileKind("a table of trials", "Remove it: it is written again from the study.")
_OVERRIDES = json.JSONEncoder(sort_keys=True)  # json.dumps makes one for each call


def ranked(records: Iterable[Record]) -> list[Record]:
    """Sort by validation macro F1, best first; the earlier of equals is first, trials without an epoch are last."""
    return sorted(records, key=_place)


def best(records: Iterable[Record]) -> Record | None:
    """Return the trial with the highest validation macro F1; None if no trial has an epoch."""
    first = min(records, key=_place, default=None)
    return first if first is not None and first.f1 is not None else None


def preset(records: Iterable[Record]) -> Record | None:
    """Return trial 0, the preset's recipe; None if it has not begun."""
    return next((record for record in records if record.origin == PRESET), None)


def write(run: SearchRun, records: Iterable[Record]) -> None:
    """Write leaderboard.csv as a whole."""
    rows = (_row(rank, one) for rank, one in enumerate(ranked(records), start=1))
    write_csv(run.leaderboard, COLUMNS, no_formulas(rows))


def read(run: SearchRun) -> dict[str, dict[str, str]]:
    """Return the rows of leaderboard.csv by trial, as text; none where there is no such table with its columns."""
    try:
        rows = list(csv.DictReader(io.StringIO(LEADERBOARD_FILE.read_text(run.leaderboard), newline="")))
    except (Damaged, csv.Error):  # it is written again from the study anyway
        return {}
    return {row["trial"]: {name: as_it_was(cell) for name, cell in row.items()} for row in rows if _is_whole(row)}


def _is_whole(row: dict[str, str]) -> bool:
    """Whether a row is one that `write` writes."""
    try:
        TrialState(row["state"])
        int(row["epochs"] or 0)
        number_of(float(row["seconds"]))
        parse_object(row["overrides"])
    except (ValueError, TypeError, KeyError):
        return False
    return None not in row.values() and set(COLUMNS) <= row.keys()


def _row(rank: int, record: Record) -> tuple[object, ...]:
    """Return a trial's cells in the order of COLUMNS. Without a score it has no rank."""
    return (
        rank if record.f1 is not None else "",
        record.trial_id,
        record.state,
        f"{record.f1:.6f}" if record.f1 is not None else "",
        record.best_epoch or "",
        record.epochs,
        f"{record.seconds:.1f}",
        record.origin,
        _OVERRIDES.encode(record.overrides),
        record.message,
    )


class LiveRanking:
    """The ranking of a running search, for its driver: a trial is read from the study only when it reports or ends.

    If all trials were read for each result, a search of n trials would read n squared of them.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._storage = storage_of(study)
        self._study_id = self._storage.get_study_id_from_name(study.study_name)
        self._records: dict[str, Record] = {}
        self.ended = 0
        self.states: Counter[TrialState] = Counter()
        """How many trials are in each state."""
        self.best: Record | None = None
        self.preset: Record | None = None
        for one in begun(study):
            self._take(one)

    def update(self, trial_id: str) -> Record:
        """Read one trial from the study again."""
        number = int(trial_id)
        now = record(
            self._storage.get_trial(self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number))
        )
        self._take(now)
        return now

    def records(self) -> list[Record]:
        """Return every trial that was begun, as it was last read."""
        return list(self._records.values())

    def _take(self, now: Record) -> None:
        before = self._records.get(now.trial_id)
        had_ended = before is not None and before.state.ended
        self.ended += now.state.ended - had_ended
        if before is not None:
            self.states[before.state] -= 1
        self.states[now.state] += 1
        self._records[now.trial_id] = now
        if now.origin == PRESET:
            self.preset = now
        # A trial's F1 is its best so far and never falls, so a new best trial is found without comparing all others.
        if now.f1 is not None and (
            self.best is None or self.best.trial_id == now.trial_id or _place(now) < _place(self.best)
        ):
            self.best = now


def _place(record: Record) -> tuple[bool, float, str]:
    """Return what trials are sorted by."""
    return record.f1 is None, -(record.f1 or 0.0), record.trial_id
