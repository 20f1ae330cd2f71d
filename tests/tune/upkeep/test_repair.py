"""A journal that is lost, shortened or damaged is refused, and made again from what the trials left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from maskcls.errors import DataError
from tests.tune.made_run import made_run
from tests.tune.searches import make_plan, new_run, table
from tests.tune.synthetic import Synthetic
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.study import Record, open_study, records
from tune.search.driver import drive
from tune.search.warm_start import study_for_space
from tune.states import TrialState
from tune.upkeep.repair import check_trials, repair

TRIALS = 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SearchRun:
    run = made_run(tmp_path_factory.mktemp("runs"), TRIALS, message="ValueError: no such layer")
    leaderboard.write(run, records(run))
    run.write_record(run.record())  # as a driver does at its end
    return run


@pytest.fixture
def run(made: SearchRun, tmp_path: Path) -> SearchRun:
    return SearchRun(Path(shutil.copytree(made.path, tmp_path / "made")))


def without_parameters(found: list[Record]) -> list[Record]:
    """What a repair keeps: parameters are found again from the recipe, by the next resume."""
    return [replace(one, params={}) for one in found]


def cut(share: float) -> Callable[[SearchRun], None]:
    def damage(run: SearchRun) -> None:
        lines = run.journal.read_bytes().splitlines(keepends=True)
        run.journal.write_bytes(b"".join(lines[: int(share * len(lines))]))

    return damage


def with_line(text: bytes) -> Callable[[SearchRun], None]:
    """A line put into the middle, as a failing disk or another program does."""

    def damage(run: SearchRun) -> None:
        lines = run.journal.read_bytes().splitlines(keepends=True)
        run.journal.write_bytes(b"".join([*lines[:40], text + b"\n", *lines[40:]]))

    return damage


def flip_a_score(run: SearchRun) -> None:
    """Still JSON, and Optuna would read it without a word."""
    content = run.journal.read_bytes()
    at = content.index(b'"intermediate_value":0.') + len(b'"intermediate_value":0.')
    run.journal.write_bytes(content[:at] + (b"9" if content[at : at + 1] != b"9" else b"8") + content[at + 1 :])


def make_fifo(run: SearchRun) -> None:
    run.journal.unlink()
    os.mkfifo(run.journal)


def of_another_run(run: SearchRun) -> None:
    other = made_run(run.path.parent / "others", 3)
    shutil.copyfile(other.journal, run.journal)


DAMAGES = {
    "missing": lambda run: run.journal.unlink(),
    "empty": cut(0),
    "half": cut(0.5),
    "all but a line": cut(0.999),
    "zeros": with_line(b"\0" * 4096),
    "garbage": with_line(b"\xff\xfe not a record"),
    "no object": with_line(b"[1, 2]"),
    "too deep": with_line(b'{"op_code":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "no operation": with_line(b'{"a": 1}'),
    "half a record": with_line(b'{"op_code": 8, "worker}'),
    "a flipped digit": flip_a_score,
    "a pipe": make_fifo,
    "another run's": of_another_run,
}
SAYS = {
    "missing": r"is missing, and search\.json notes that it held \d+ lines",
    "half": r"has \d+ whole lines left, and search\.json notes that it held \d+ lines",
    "zeros": r"is damaged: line 41 is no record of Optuna's",
    "a flipped digit": r"is not the one that search\.json notes",
    "a pipe": "is no regular file",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal_is_refused_and_made_again(run: SearchRun, name: str) -> None:
    before = without_parameters(records(run))
    DAMAGES[name](run)
    says = rf"study\.journal {SAYS.get(name, '')}.*Restore it from a backup, or make it again: .* repair "
    for read in (records, open_study):
        with pytest.raises(DataError, match=says):
            read(run)

    repaired = repair(run)
    assert repaired is not None
    assert (repaired.ended, repaired.unfinished) == (TRIALS, ())
    assert records(run) == before
    assert repair(run) is None, "nothing is wrong any more"
    check_trials(run)
    if name != "missing":
        assert repaired.aside is not None
        assert repaired.aside.exists(), "what was there is kept"


def test_what_is_written_beside_a_damaged_journal_does_not_make_it_pass(run: SearchRun) -> None:
    cut(0.5)(run)
    run.write_record(run.record().changed(notes=["written by another command"]))
    with pytest.raises(DataError, match="search.json notes"):
        records(run)


def test_a_line_that_is_still_being_written_is_no_damage(run: SearchRun) -> None:
    before = records(run)
    with run.journal.open("ab") as file:
        file.write(b'{"op_code": 8, "worker_id": "torn in the mid')
    assert records(run) == before


def test_trials_that_only_their_folders_know_are_missed(run: SearchRun) -> None:
    """As after a driver that was killed with its machine: no record was written since it began."""
    before = without_parameters(records(run))
    run.write_record(run.record().changed(journal=None))
    cut(0.5)(run)
    run.record_file.write_text(run.record_file.read_text().replace('"journal"', '"of an older version"'))
    with pytest.raises(DataError, match=r"has lost \d trials that .*trials holds \(0005, 0006, 0007\)"):
        check_trials(run)
    assert repair(run) is not None
    assert records(run) == before


def test_without_its_row_a_trial_that_was_stopped_is_unfinished(run: SearchRun) -> None:
    """Nothing else says that it had ended, so that it is trained on; what is complete stays so."""
    before = {one.trial_id: one for one in records(run)}
    run.journal.unlink()
    run.leaderboard.unlink()
    repaired = repair(run)
    assert repaired is not None
    assert repaired.unfinished == ("0003", "0005", "0007"), "stopped early, diverged, failed"
    for one in records(run):
        assert (one.f1, one.recipe, one.epochs) == (*((old := before[one.trial_id]).f1, old.recipe, old.epochs),)
        assert one.state in (before[one.trial_id].state, TrialState.UNFINISHED)


def test_a_driver_at_work_is_not_disturbed(run: SearchRun) -> None:
    run.journal.unlink()
    with run.held(), pytest.raises(Exception, match="Another driver is working"):
        repair(run)


@pytest.mark.soak
def test_a_cut_after_each_record_costs_nothing(made: SearchRun, tmp_path: Path) -> None:
    before = without_parameters(records(made))
    lines = made.journal.read_bytes().splitlines(keepends=True)
    for n in range(len(lines)):
        run = SearchRun(Path(shutil.copytree(made.path, tmp_path / str(n))))
        run.journal.write_bytes(b"".join(lines[:n]))
        assert repair(run) is not None
        assert records(run) == before, f"cut after {n} lines"


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_repaired_search_goes_on(tmp_path: Path) -> None:
    """Its trials stay, and the sampler knows them as points of the space."""
    run = new_run(tmp_path)
    plan = make_plan(3)
    study_for_space(open_study(run), plan, "synthetic")
    drive(plan, run, Synthetic())
    before = table(run)
    parameters = [trial.params for trial in open_study(run).get_trials(deepcopy=False)]
    run.journal.unlink()
    assert repair(run) is not None

    plan = make_plan(5)
    study = study_for_space(open_study(run), plan, "synthetic")
    assert [trial.params for trial in study.get_trials(deepcopy=False)] == parameters
    drive(plan, run, Synthetic())
    kept = {"state", "best_validation_f1", "epochs", "origin", "overrides"}
    after = {row["trial"]: {name: row[name] for name in kept} for row in table(run)}
    assert len(after) == 5  # a number may be skipped: a point of the space that was tried already is withdrawn again
    assert {row["trial"]: {name: row[name] for name in kept} for row in before}.items() <= after.items()

    unbroken = new_run(tmp_path, "unbroken")
    study_for_space(open_study(unbroken), plan, "synthetic")
    drive(plan, unbroken, Synthetic())
    best, like = (leaderboard.best(records(one)) for one in (run, unbroken))
    assert best is not None
    assert like is not None
    assert (best.f1, best.recipe) == (like.f1, like.recipe)
