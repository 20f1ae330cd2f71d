"""The journal of a run: what it waits for, and that it is Optuna's own."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from tune.runs import study as records
from tune.runs.folder import SearchRun


def test_it_waits_for_the_disk_when_a_trial_has_its_recipe_and_when_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SearchRun.create(tmp_path, "one")
    study = records.open_study(run)
    waited: list[int] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        waited.append(run.journal.stat().st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    trial = study.ask()
    trial.suggest_float("lr_head", 0.0, 1.0)
    assert waited == []
    trial.set_user_attr(records.RECIPE, {"lr_head": 0.5})
    begun = run.journal.stat().st_size
    for epoch in range(1, 9):
        trial.report(0.1 * epoch, epoch)
    trial.set_user_attr(records.STATE, "complete")
    study.tell(trial, 0.8)
    assert waited == [begun, run.journal.stat().st_size]

    plain = optuna.storages.JournalStorage(JournalFileBackend(str(run.journal)))
    (read,) = optuna.load_study(study_name="one", storage=plain).trials
    assert read == study.trials[0]
