"""leaderboard.csv: each trial of a run once, best first, from the study's record; and where a search stands while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterable

import optuna

from maskcls.files import write_csv
from tune.runs.folder import SearchRun
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
_OVERRIDES = json.JSONEncoder(sort_keys=True)  # json.dumps makes one for each call


def ranked(records: Iterable[Record]) -> list[Record]:
    """Best validation macro F1 first, the earlier trial first of equals, trials without an epoch last."""
    return sorted(records, key=_place)


def best(records: Iterable[Record]) -> Record | None:
    """The trial with the highest validation macro F1; None where no trial has an epoch."""
    first = min(records, key=_place, default=None)
    return first if first is not None and first.f1 is not None else None


def preset(records: Iterable[Record]) -> Record | None:
    """Trial 0, the preset's recipe."""
    return next((record for record in records if record.origin == PRESET), None)


def write(run: SearchRun, records: Iterable[Record]) -> None:
    """Rewrite leaderboard.csv whole."""
    write_csv(run.leaderboard, COLUMNS, (_row(rank, told) for rank, told in enumerate(ranked(records), start=1)))


def _row(rank: int, record: Record) -> tuple[object, ...]:
    """A trial's cells, by COLUMNS; without a score it has no rank."""
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
    """Where a search stands, for its driver: a trial is read from the study when it reports, and after its end no more.

    To read all of them for each result would cost a search of n trials n squared.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._records: dict[str, Record] = {}
        self.ended = 0
        self.best: Record | None = None
        self.preset: Record | None = None
        for told in begun(study):
            self._take(told)

    def look(self, trial_id: str) -> Record:
        """Read one trial anew."""
        storage = self._study._storage
        of_storage = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, int(trial_id))
        told = record(storage.get_trial(of_storage))
        self._take(told)
        return told

    def records(self) -> list[Record]:
        """Every trial that was begun, as it was last read."""
        return list(self._records.values())

    def _take(self, told: Record) -> None:
        before = self._records.get(told.trial_id)
        self.ended += (told.state != TrialState.UNFINISHED) - (
            before is not None and before.state != TrialState.UNFINISHED
        )
        self._records[told.trial_id] = told
        if told.origin == PRESET:
            self.preset = told
        # A trial's F1 is its best so far and never falls, so the best trial needs no second look at the others.
        if told.f1 is not None and (
            self.best is None or self.best.trial_id == told.trial_id or _place(told) < _place(self.best)
        ):
            self.best = told


def _place(record: Record) -> tuple[bool, float, str]:
    return record.f1 is None, -(record.f1 or 0.0), record.trial_id
