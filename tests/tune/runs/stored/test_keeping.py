"""A driver keeps its run in a storage, and takes it from there on a disk that does not have it, or has less of it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from maskcls.errors import CallError, OutOfReach, RunError
from maskcls.storage.store import Store
from tests.s3 import S3
from tests.tune.made_run import made_run
from tune.fitting import pool
from tune.fitting.curve import CURVE
from tune.fitting.request import FitRequest
from tune.runs.folder import NameInUse, SearchRun
from tune.runs.stored import keeping, lease
from tune.runs.stored.folder import INDEX
from tune.runs.stored.keeping import Sender, sender_of
from tune.runs.study import open_study, records
from tune.search.options import SearchOptions
from tune.upkeep.repair import check_trials


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_LOOK_S", 0.05)
    monkeypatch.setattr(lease, "_SETTLES_S", 0.0)


def options(storage: object, runs: Path, **more: object) -> SearchOptions:
    return SearchOptions.model_validate({"storage": str(storage), "runs": runs, "space": "freezing", **more})


def kept(run: SearchRun, storage: object, do: Callable[[Sender], object] = lambda sender: None) -> None:
    """What a driver does with a new run in a storage."""
    with (
        keeping.begun(SearchRun, options(storage, run.path.parent), run.name) as hold,
        keeping.keeping(run, hold) as sender,
    ):
        assert sender is not None
        assert sender_of(run.path) is sender
        do(sender)
    assert sender_of(run.path) is None


def taken(storage: object, runs: Path, place: str = "made", **more: object) -> SearchRun:
    with ExitStack() as stack:
        found, hold = keeping.found(SearchRun, options(storage, runs, **more), place, stack)
        assert hold is not None
        stack.enter_context(keeping.keeping(found, hold))
        return found


def files(run: SearchRun) -> dict[str, bytes]:
    return {
        file.relative_to(run.path).as_posix(): file.read_bytes()
        for file in run.path.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "storage")
    s3: S3 = request.getfixturevalue("s3")
    return s3.address(tmp_path.name)


def test_a_run_is_taken_up_on_another_disk(storage: str, tmp_path: Path) -> None:
    run = made_run(tmp_path / "here", 6)
    (run.best / "sub").mkdir(parents=True)
    (run.best / "sub" / "bundle.json").write_text("{}")
    kept(run, storage)
    found = taken(storage, tmp_path / "there")
    assert files(found) == files(run)
    assert records(found) == records(run)
    assert found.experiment.is_dir()
    assert found.journal.stat().st_mtime_ns == run.journal.stat().st_mtime_ns, "by which it is known what is older"


def test_what_is_written_while_it_works_is_there_when_it_is_asked_for(storage: str, tmp_path: Path) -> None:
    run = made_run(tmp_path / "here", 2)
    copy = SearchRun(tmp_path / "copy")

    def go_on(sender: Sender) -> None:
        study = open_study(run)
        study.tell(study.ask(), 0.5)
        run.leaderboard.write_text("trial\n")
        sender.flush()
        keeping.fetch(SearchRun, sender.store, copy.path)

    kept(run, storage, go_on)
    assert files(copy) == files(run)


def test_a_trial_that_ran_on_another_node_is_fetched_and_its_weights_are_deleted(tmp_path: Path) -> None:
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 2)
    elsewhere = Store(str(storage), "made").below("trials/0002")
    elsewhere.put("best-1.safetensors", b"weights")

    def end(sender: Sender) -> None:
        trial = run.trial("0002")
        sender.later(lambda: sender.exchange(trial))
        sender.flush()
        assert (trial / "best-1.safetensors").read_bytes() == b"weights"
        (trial / "best-1.safetensors").unlink()
        sender.later(lambda: sender.forget([trial / "best-1.safetensors"]))

    kept(run, storage, end)
    assert "best-1.safetensors" not in elsewhere.sizes()


def test_weights_that_the_search_does_not_keep_are_never_fetched(tmp_path: Path) -> None:
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 2)
    elsewhere = Store(str(storage), "made").below("trials/0002")
    for name in ("best-1.safetensors", "state.pt", "recipe.json"):
        elsewhere.put(name, b"{}")
    elsewhere.put_json(INDEX, {"state.pt": [2, 1, "0" * 64]})  # a worker died before it had noted the other one

    kept(run, storage, lambda sender: sender.later(lambda: sender.exchange(run.trial("0002"), weights=False)))
    assert (run.trial("0002") / "recipe.json").exists()
    assert not {"best-1.safetensors", "state.pt"} & {file.name for file in run.trial("0002").iterdir()}
    assert not {"best-1.safetensors", "state.pt"} & elsewhere.sizes().keys()


def test_the_driver_sees_how_far_a_fit_is_on_another_nodes_disk(tmp_path: Path) -> None:
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 1)
    request = FitRequest("x", {}, run.finalists / "x", run.path, 1, 0.0)
    rows = [{"epoch": epoch, "validation_f1": 0.5, "best_f1": 0.5} for epoch in (1, 2)]
    lines = [json.dumps(row) + "\n" for row in rows]

    def look(sender: Sender) -> None:
        sender.peek(request.folder, CURVE, request.folder / pool._ELSEWHERE)
        assert pool._curve_of(request) == []
        Store(str(storage), "made").below("finalists/x").put(CURVE, "".join(lines).encode())
        sender.peek(request.folder, CURVE, request.folder / pool._ELSEWHERE)
        assert pool._curve_of(request) == rows
        (request.folder / CURVE).write_text("".join([*lines, json.dumps({**rows[0], "epoch": 3}) + "\n"]))
        assert [row["epoch"] for row in pool._curve_of(request)] == [1, 2, 3], "this disk has more"

    kept(run, storage, look)
    assert not [name for name in Store(str(storage), "made").sizes() if "elsewhere" in name]


def test_what_the_driver_writes_is_put_while_a_task_is_long(tmp_path: Path) -> None:
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 2)
    seen: list[bytes | None] = []

    def long() -> None:
        (run.path / "search.json.note").write_text(str(len(seen)))
        time.sleep(0.1)
        seen.append(Store(str(storage), "made").read("search.json.note"))

    def end(sender: Sender) -> None:
        sender.flush()
        for _ in range(3):
            sender.later(long)

    kept(run, storage, end)
    assert seen == [None, b"0", b"1"], "not all of them at the end"


def test_a_bundle_that_another_takes_the_place_of_leaves_no_file(tmp_path: Path) -> None:
    """As where the winner's own model is there before its bag."""
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 1)
    run.best.mkdir()

    def replaces(sender: Sender) -> None:
        for name in ("alone", "averaged"):
            shutil.rmtree(run.best)
            run.best.mkdir()
            (run.best / f"{name}.safetensors").write_text(name)
            (run.best / "bundle.json").write_text("{}")
            sender.flush()

    kept(run, storage, replaces)
    assert sorted(Store(str(storage), "made").below("best").sizes()) == ["averaged.safetensors", "bundle.json", INDEX]


def test_a_name_that_the_storage_has_is_not_begun_again(tmp_path: Path) -> None:
    kept(made_run(tmp_path / "here", 2), tmp_path / "storage")
    again = options(tmp_path / "storage", tmp_path / "there", name="made")
    with pytest.raises(NameInUse, match=r"the run name 'made' is in use\. Choose another --name, or go on with it: .*"):
        keeping.check_free(SearchRun, again)
    with pytest.raises(NameInUse), keeping.begun(SearchRun, again, "made"):
        pass


def test_a_disk_that_lacks_what_another_driver_did_gets_it_and_keeps_its_own_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, here, there = tmp_path / "storage", tmp_path / "here", tmp_path / "there"
    run = made_run(here, 2)
    kept(run, storage)
    other = taken(storage, there)
    other.leaderboard.write_text("what the other driver wrote")
    taken(storage, there)
    again = taken(storage, here)
    assert again.path == run.path
    assert again.leaderboard.read_text() == "what the other driver wrote"
    assert not SearchRun(here / "made-replaced-1").leaderboard.exists()
    assert f"What was here is now {here / 'made-replaced-1'}." in capsys.readouterr().err


def test_a_disk_that_has_more_than_the_storage_goes_on_with_it(tmp_path: Path) -> None:
    """Its driver was killed before it had sent all."""
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 2)
    kept(run, storage)
    run.leaderboard.write_text("more")
    taken(storage, tmp_path / "here", str(run.path))
    shutil.rmtree(run.path)
    assert taken(storage, tmp_path / "here").leaderboard.read_text() == "more"


def test_a_trial_that_the_lost_drivers_journal_had_not_come_to_is_drawn_again(tmp_path: Path) -> None:
    """Its worker puts the recipe at once, and the state of a fit that the next driver's recipe need not fit."""
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 2)
    kept(run, storage)
    begun = Store(str(storage), "made").below("trials/0002")
    for name in ("recipe.json", "state.pt"):
        begun.put(name, b"{}")
    begun.put_json(INDEX, {})
    there = taken(storage, tmp_path / "there")
    check_trials(there)
    assert sorted(folder.name for folder in there.trials.iterdir()) == ["0000", "0001"]
    assert begun.sizes() == {}


def test_a_trial_that_the_journal_has_lost_is_not_dropped(tmp_path: Path) -> None:
    storage, run = tmp_path / "storage", made_run(tmp_path / "here", 3)
    lines = run.journal.read_text().splitlines(keepends=True)
    left = [line for line in lines if '"trial_id":1,' not in line or '"recipe"' not in line]
    assert len(left) == len(lines) - 1
    run.journal.write_text("".join(left))
    kept(run, storage)
    assert taken(storage, tmp_path / "there").trial("0001").is_dir()


def test_a_run_that_cannot_be_fetched_stays_as_it_is(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, address = made_run(tmp_path / "here", 2), s3.address(tmp_path.name)
    kept(run, address)
    taken(address, tmp_path / "there")

    def fails(*arguments: object) -> None:
        raise OutOfReach("The storage is out of reach.")

    monkeypatch.setattr(keeping, "fetch", fails)
    before = files(run)
    with pytest.raises(RunError, match="Nothing was begun"):
        taken(address, tmp_path / "here")
    assert files(run) == before
    assert not list(tmp_path.glob("here/made-*"))


def test_what_a_fit_left_is_fetched_once_the_storage_is_in_reach_again(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that was not fetched would be a repeat that was not done."""
    monkeypatch.setattr(keeping, "START_S", 0.2)
    run, address = made_run(tmp_path / "here", 2), s3.address(tmp_path.name)
    Store(address, "made").below("finalists/x").put("result.json", b"{}")

    def bring(sender: Sender) -> None:
        over = threading.Event()

        def fail_for_a_while() -> None:
            with s3.failing("500"):
                over.wait()

        outage = threading.Thread(target=fail_for_a_while)
        outage.start()
        assert not sender.fetch(run.finalists / "x")
        threading.Timer(1.0, over.set).start()
        sender.fetch_surely(run.finalists / "x")
        outage.join()
        assert (run.finalists / "x" / "result.json").exists()

    kept(run, address, bring)


def test_a_run_that_had_no_storage_gets_one_with_all_its_trials(tmp_path: Path) -> None:
    run = made_run(tmp_path / "here", 6)
    taken(tmp_path / "storage", tmp_path / "here")
    assert files(taken(tmp_path / "storage", tmp_path / "there")) == files(run)


def test_a_run_that_is_nowhere_is_said(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"There is no run 'one', neither under .* nor in the storage .*/one\."):
        taken(tmp_path / "storage", tmp_path / "runs", "one")


def test_an_outage_is_said_and_made_good(s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_run(tmp_path / "here", 2)

    def go_on(sender: Sender) -> None:
        with s3.failing("500"):
            run.leaderboard.write_text("later")
            deadline = time.monotonic() + 30
            while "The work goes on meanwhile" not in (said := capsys.readouterr().err):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert f"The storage s3://bucket/{tmp_path.name}/made" in said
        sender.flush()
        assert "is in reach again." in capsys.readouterr().err

    kept(run, s3.address(tmp_path.name), go_on)
    assert taken(s3.address(tmp_path.name), tmp_path / "there").leaderboard.read_text() == "later"


def test_an_outage_that_lasts_ends_the_work_and_leaves_it_on_the_disk(s3: S3, tmp_path: Path) -> None:
    run = made_run(tmp_path / "here", 2)
    address = s3.address(tmp_path.name)
    with keeping.begun(SearchRun, options(address, run.path.parent), "made") as hold:
        assert hold is not None
        sender = Sender(run, hold, patience_s=0.5)
        sender.__enter__()
        sender.flush()
        run.leaderboard.write_text("more")
        lost = r"is out of reach .* What was done is kept in .*/made; to go on: python -m tune"
        with s3.failing("500"), pytest.raises(RunError, match=lost):
            sender.__exit__(None)


def test_another_driver_that_took_over_ends_the_work(tmp_path: Path) -> None:
    run = made_run(tmp_path / "here", 2)

    def go_on(sender: Sender) -> None:
        sender._lease.lost = "Another driver has taken over."
        while not sender.lost:
            time.sleep(0.01)
        run.leaderboard.write_text("not sent")

    with pytest.raises(RunError, match="Another driver has taken over. What was done is kept"):
        kept(run, tmp_path / "storage", go_on)
    assert not (tmp_path / "storage" / "made" / "leaderboard.csv").exists()
