"""A run's folder: made once, mended after a kill, never half-written."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from maskcls.errors import CallError, DataError, RunError
from tests.tune.searches import new_run
from tune.runs.folder import NameInUse, SearchRun, remove
from tune.runs.study import open_study


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert SearchRun.open("one", tmp_path) == SearchRun.open(tmp_path / "one") == run
    assert run.path.is_absolute()
    with pytest.raises(CallError, match="in use"):
        new_run(tmp_path)


def test_of_many_that_make_a_run_at_the_same_moment_one_does(tmp_path: Path) -> None:
    together = Barrier(8)

    def make(number: int) -> str:
        together.wait()
        try:
            new_run(tmp_path, f"run-{number // 8}")
        except NameInUse:
            return "in use"
        return "made"

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(make, range(80)))
    assert ends.count("made") == 10
    assert {path.name for path in tmp_path.iterdir()} == {f"run-{number}" for number in range(10)}
    assert all(SearchRun.open(path).trials.is_dir() for path in tmp_path.iterdir())


def test_a_run_that_is_taken_back_leaves_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with run.driving():
        remove(run)
    assert list(tmp_path.iterdir()) == []


def test_removing_the_lock_file_lets_no_second_driver_in(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with run.driving():
        (run.path / ".driver.lock").unlink()
        with pytest.raises(RunError, match="Another driver is working on"), SearchRun(run.path).driving():
            pass
    with SearchRun(run.path).driving():
        pass


def test_what_a_kill_leaves_of_a_new_run_is_no_run(tmp_path: Path) -> None:
    new_run(tmp_path).path.rename(tmp_path / ".one.0badcafe.tmp")
    with pytest.raises(CallError, match=r"There is no run 'two'.*Runs there: none"):
        SearchRun.open("two", tmp_path)
    assert SearchRun.open(new_run(tmp_path).path).name == "one"


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.search_file.write_text("{")
    with pytest.raises(DataError, match=r"search\.json can't be read"):
        run.record()


def test_a_torn_journal_is_cut_to_its_last_whole_line(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    open_study(run).enqueue_trial({"x": 1})
    whole = run.journal.read_bytes()
    run.journal.write_bytes(whole + b'{"op_code": 4, "wor')
    Path(f"{run.journal}.lock").symlink_to(run.journal)
    run.mend()
    assert run.journal.read_bytes() == whole
    assert not Path(f"{run.journal}.lock").is_symlink()
    open_study(run).enqueue_trial({"x": 2})
    assert len(open_study(run).trials) == 2


def test_a_journal_torn_in_its_first_line_starts_empty(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.journal.write_bytes(b'{"op_code": 0')
    run.mend()
    assert run.journal.read_bytes() == b""
    assert open_study(run).study_name == "one"


def test_a_moved_run_keeps_its_study(tmp_path: Path) -> None:
    open_study(new_run(tmp_path)).enqueue_trial({"x": 1})
    (tmp_path / "one").rename(tmp_path / "two")
    assert len(open_study(SearchRun.open("two", tmp_path)).trials) == 1


def test_parts_of_the_experiment_never_collide(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run.next_part() == "001"
    for part in ("001", "003", "litter"):
        (run.experiment / part).mkdir()
    assert run.next_part() == "004"


def test_a_journal_that_ends_in_a_hole_longer_than_any_line_is_left_to_its_reader(tmp_path: Path) -> None:
    run = SearchRun(tmp_path)
    run.journal.write_bytes(b'{"a": 1}\n')
    os.truncate(run.journal, 1 << 43)
    run.mend()
    assert run.journal.stat().st_size == 1 << 43
