"""What the search takes for granted of Optuna's journal, a test a fact.

As in test_optuna.py. Checked with optuna 5.0.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState as OptunaState

from tests.tune.studies import journal, numbers, study_of
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.runs.study import open_study


def test_studies_are_listed_in_the_order_of_being_made(tmp_path: Path) -> None:
    """Leans: tune.runs.study._current, which takes the last one that is whole, and tune.search.warm_start.widen, which
    counts them.

    If it fails: number the studies in their names.
    """
    file = tmp_path / "journal"
    for name in ("zebra", "ant", "zebra+2"):
        optuna.create_study(study_name=name, storage=journal(file)).set_user_attr("copying", name == "ant")
    assert optuna.get_all_study_names(journal(file)) == ["zebra", "ant", "zebra+2"]
    assert optuna.load_study(study_name="ant", storage=journal(file)).user_attrs == {"copying": True}


def test_a_journal_that_is_read_stays_as_it_is_and_tells_what_another_process_wrote(tmp_path: Path) -> None:
    """Leans: tune.runs.study.records, which readers call while a search runs.

    If it fails: have readers copy the journal first.
    """
    file = tmp_path / "journal"
    writer = study_of(numbers, 2, storage=journal(file))
    before = file.read_bytes()
    reader = optuna.load_study(study_name=writer.study_name, storage=journal(file))
    assert len(reader.get_trials(deepcopy=False)) == 2
    assert file.read_bytes() == before
    writer.ask().report(0.5, 1)
    assert reader.get_trials(deepcopy=False)[2].intermediate_values == {1: 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_a_torn_last_line_is_read_and_breaks_the_next_write(tmp_path: Path) -> None:
    """Leans: RunFolder.mend, which cuts it off before a driver writes.

    If it fails because the write works: that cut is needed no more. If reading fails: `records` must cut as well.
    """
    run = SearchRun.create(tmp_path, "one")
    name = study_of(numbers, 2, storage=journal(run.journal)).study_name
    with run.journal.open("a") as file:
        file.write('{"op_code": 8, "worker_id": "torn in the mid')
    spoilt = tmp_path / "spoilt"
    shutil.copy(run.journal, spoilt)
    torn = optuna.load_study(study_name=name, storage=journal(spoilt))
    assert len(torn.trials) == 2
    with pytest.raises((AttributeError, ValueError)):
        torn.ask()
    run.mend()
    assert optuna.load_study(study_name=name, storage=journal(run.journal)).ask().number == 2


def test_a_lock_that_a_killed_driver_left_blocks_the_journal(tmp_path: Path) -> None:
    """Leans: RunFolder.mend, which removes `study.journal.lock*`, and tune.runs.study._RunJournal, which takes no lock.

    If it fails because it does not block: both are needed no more.
    """
    file = tmp_path / "journal"
    lock = Path(f"{file}.lock")
    lock.symlink_to(file)
    waiting = JournalFileSymlinkLock(str(file))
    taken = threading.Event()

    def acquire() -> None:
        waiting.acquire()
        taken.set()

    thread = threading.Thread(target=acquire, daemon=True)
    thread.start()
    assert not taken.wait(0.5)
    lock.unlink()
    assert taken.wait(10)
    waiting.release()


def test_a_journal_whose_append_logs_is_overridden_makes_no_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leans: tune.runs.study._RunJournal.append_logs, which writes without Optuna's lock; reading takes none.

    If it fails: remove the lock before every write, or search under Optuna's own.
    """
    linked: list[Any] = []
    symlink = os.symlink

    def counted(*paths: Any) -> None:
        linked.append(paths)
        symlink(*paths)

    monkeypatch.setattr(os, "symlink", counted)
    study = open_study(SearchRun.create(tmp_path, "one"))
    study.tell(study.ask(), 0.5)
    assert linked == []
    optuna.create_study(storage=journal(tmp_path / "plain"))
    assert linked != [], "if this one fails alone, nothing has to be overridden for the lock's sake"


def test_a_line_of_the_journal_says_by_its_code_and_its_keys_what_it_is(tmp_path: Path) -> None:
    """Leans: tune.runs.study._RunJournal.append_logs, which waits for the disk at a trial's end and at its recipe.

    If it fails: find those lines by what they have now, or a machine that fails loses ended trials.
    """
    file = tmp_path / "journal"
    study = optuna.create_study(storage=journal(file))
    trial = study.ask()
    trial.set_user_attr(records.RECIPE, {"lr_head": 0.5})
    study.tell(trial, 0.5)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["state"] for line in lines if line["op_code"] == records.SET_TRIAL_STATE] == [OptunaState.COMPLETE]
    assert [line["user_attr"] for line in lines if "user_attr" in line] == [{records.RECIPE: {"lr_head": 0.5}}]
