"""A fit of a run in a storage goes on, on a node with another disk, from the last epoch that was reported."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from maskcls.data.dataset import prepare
from maskcls.errors import OutOfReach
from maskcls.recipe import Recipe
from maskcls.storage.store import Store
from maskcls.stores.cache_options import CacheOptions
from tests.conftest import DemoFaces
from tests.s3 import S3
from tests.tune.fitting.test_attempts import RAY_SAYS
from tests.tune.searches import computed, make_plan, new_run
from tests.tune.synthetic import Synthetic
from tune.fitting import attempts
from tune.fitting.attempts import NOTE, Attempt, killed_for_memory, note_micro_batch
from tune.fitting.curve import read_curve
from tune.fitting.pool import work_on
from tune.fitting.request import FitRequest, Row, TrialRequest, Work
from tune.fitting.result import FitResult
from tune.fitting.stored import run_and_report_stored
from tune.fitting.worker import run_fit
from tune.runs.folder import SearchRun
from tune.runs.stored.folder import DRIVERS, StoredFolder
from tune.runs.stored.keeping import Sender
from tune.runs.stored.lease import held
from tune.search.searcher import StudySearch
from tune.states import TrialState

EPOCHS = 4


class NodeLost(BaseException):
    """Ends a fit as the death of its node does: nothing after it is done."""


def request_on(node: Path, recipe: dict[str, Any]) -> TrialRequest:
    """A trial as a worker is asked for it on a node with a disk of its own."""
    run = SearchRun(node / "runs" / "one")
    return TrialRequest("0000", recipe, run.trial("0000"), run.path, 1, 0.0)


def fitted(request: FitRequest, work: Work, store: Store | None, *, lost_after: int | None = None) -> list[Row]:
    """The rows that are reported on a node, which is lost after an epoch if one is named."""
    rows: list[Row] = []

    def report(row: Row, state: TrialState, message: str) -> None:
        rows.append({**row, "state": state, "message": message})
        if row["epoch"] == lost_after:
            raise NodeLost

    try:
        run_and_report_stored(request, work, report, store)
    except NodeLost:
        assert lost_after is not None
    return rows


def synthetic() -> dict[str, Any]:
    return make_plan(explicit={"epochs": EPOCHS}).recipe({})


def test_another_node_computes_only_the_epochs_that_are_left(s3: S3, tmp_path: Path) -> None:
    store = Store(s3.address(tmp_path.name), "one")
    fitted(request_on(tmp_path / "a", synthetic()), Synthetic(), store, lost_after=2)
    rows = fitted(request_on(tmp_path / "b", synthetic()), Synthetic(), store)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert computed(SearchRun(tmp_path / "b" / "runs" / "one"), "0000") == [1, 2, 3, 4]
    kept = store.below("trials/0000").sizes()
    assert NOTE not in kept, "the fit has come to its end"
    assert {"recipe.json", "epochs.jsonl", "synthetic.json"} <= kept.keys()


def test_a_node_that_had_begun_it_goes_on_from_what_another_did(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "storage"), "one")
    first, second = request_on(tmp_path / "a", synthetic()), request_on(tmp_path / "b", synthetic())
    fitted(first, Synthetic(), store, lost_after=1)
    (first.folder / "best-1.safetensors").write_text("weights that the other node replaced")
    fitted(second, Synthetic(), store, lost_after=3)
    fitted(first, Synthetic(), store)
    assert computed(SearchRun(first.run), "0000") == [1, 2, 3, 4]
    assert not (first.folder / "best-1.safetensors").exists()


def test_weights_that_were_put_before_the_index_was_are_used(tmp_path: Path) -> None:
    """The node was lost between the two: the state names weights that the index lacks."""
    store = Store(str(tmp_path / "storage"), "one")
    fitted(request_on(tmp_path / "a", synthetic()), Synthetic(), store, lost_after=2)
    store.below("trials/0000").put("best-3.safetensors", b"weights")
    second = request_on(tmp_path / "b", synthetic())
    fitted(second, Synthetic(), store, lost_after=3)
    assert (second.folder / "best-3.safetensors").read_bytes() == b"weights"


def test_a_worker_that_was_cut_off_ends_before_it_writes_over_what_the_next_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It still sees the storage, and its own disk does not have the other's note."""
    store = Store(str(tmp_path / "storage"), "one")
    cut, follows = request_on(tmp_path / "a", synthetic()), request_on(tmp_path / "b", synthetic())
    monkeypatch.setattr(os, "_exit", lambda status: (_ for _ in ()).throw(NodeLost))
    reported: list[int] = []

    def report(row: Row, state: TrialState, message: str) -> None:
        reported.append(row["epoch"])
        if row["epoch"] == 2:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attempts, "_ME", "another process")
                patch.setattr(attempts, "_ours", set())
                fitted(follows, Synthetic(), store, lost_after=3)
            Attempt(worker="another process").write(tmp_path)
            store.below("trials/0000").put(NOTE, (tmp_path / NOTE).read_bytes())

    with pytest.raises(NodeLost):
        run_and_report_stored(cut, Synthetic(), report, store)
    assert reported == [1, 2]
    assert [row["epoch"] for row in _stored_curve(store, tmp_path)] == [1, 2, 3], "the other one's epoch stays"


def _stored_curve(store: Store, there: Path) -> list[Row]:
    (there / "curve").mkdir()
    store.below("trials/0000").fetch("epochs.jsonl", there / "curve" / "epochs.jsonl")
    return read_curve(there / "curve")


def with_weights(asked: FitRequest) -> Any:
    asked.checkpoint_folder.mkdir(parents=True, exist_ok=True)
    for row in Synthetic()(asked):
        (asked.checkpoint_folder / "state.pt").write_text(f"after epoch {row['epoch']}")
        yield row


def stopped(request: TrialRequest, store: Store, work: Work, reported: TrialState) -> None:
    """The trial as Ray stops it, when it has reported this state or its third epoch."""

    def report(row: Row, state: TrialState, message: str) -> None:
        if state == reported and row["epoch"] in (0, 3):
            raise SystemExit

    with pytest.raises(SystemExit):
        run_and_report_stored(request, work, report, store, drops=True)


def test_weights_stay_on_the_drivers_disk_alone(tmp_path: Path) -> None:
    """A worker's would fill up with those of all trials; the next one fetches them."""
    store = Store(str(tmp_path / "storage"), "one")
    worker, driver = request_on(tmp_path / "a", synthetic()), request_on(tmp_path / "b", synthetic())
    stopped(worker, store, with_weights, TrialState.RUNNING)
    assert not (worker.folder / "state.pt").exists()
    assert (worker.folder / "epochs.jsonl").exists()
    assert store.below("trials/0000").read("state.pt") == b"after epoch 3"
    driver.run.mkdir(parents=True)
    (driver.run / DRIVERS).touch()
    run_and_report_stored(driver, with_weights, None, store, drops=True)
    assert (driver.folder / "state.pt").read_text() == "after epoch 4"


def test_weights_that_another_worker_may_be_at_stay(tmp_path: Path) -> None:
    """Ray ends the first one's thread when it is to do another trial, which may be long after."""
    store = Store(str(tmp_path / "storage"), "one")
    node = request_on(tmp_path / "a", synthetic())
    fitted(node, with_weights, store, lost_after=2)
    assert (node.folder / "state.pt").exists()

    def lacks_photos(asked: FitRequest) -> Any:
        raise OutOfReach("The photos are out of reach.")
        yield

    stopped(node, store, lacks_photos, TrialState.MACHINE_FAILED)
    assert (node.folder / "state.pt").read_text() == "after epoch 2"

    def taken_over(asked: FitRequest) -> Any:
        yield from with_weights(asked)

    def report(row: Row, state: TrialState, message: str) -> None:
        if row["epoch"] == 3:
            Attempt(worker="another process").write(node.folder)
            raise SystemExit

    with pytest.raises(SystemExit):
        run_and_report_stored(node, taken_over, report, store, drops=True)
    assert (node.folder / "state.pt").read_text() == "after epoch 3"


def test_what_rays_monitor_killed_on_one_node_goes_on_with_half_on_another(s3: S3, tmp_path: Path) -> None:
    """Neither node sees the other's disk, nor the driver's."""
    store, run = Store(s3.address(tmp_path.name), "one"), new_run(tmp_path / "driver")
    first, second = request_on(tmp_path / "a", synthetic()), request_on(tmp_path / "b", synthetic())
    allowed: list[int] = []

    def killed(asked: FitRequest) -> Any:
        note_micro_batch(asked.folder, 64)
        raise NodeLost
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "forget", lambda folder: None)  # nothing of the process runs any more
        with pytest.raises(NodeLost):
            run_and_report_stored(first, killed, None, store)
    with held(store) as lease, Sender(run, lease) as sender:
        StudySearch(make_plan(1), run, sender)._note_death(run.trial("0000"), RAY_SAYS)
    assert killed_for_memory(run.trial("0000")).startswith(
        "The worker was killed once by Ray, because the machine's memory was nearly used up, the last time in "
        "micro-batches of 64."
    )

    def notes(asked: FitRequest) -> Any:
        attempt = Attempt.read(asked.folder)
        assert attempt is not None
        allowed.append(attempt.most)
        yield from Synthetic()(asked)

    fitted(second, notes, store)
    assert allowed == [32]
    assert NOTE not in store.below("trials/0000").sizes()


@pytest.mark.parametrize("how", ["begins", "goes on"])
def test_a_storage_out_of_reach_is_a_failure_of_the_machine(s3: S3, tmp_path: Path, how: str) -> None:
    """The trial is begun again; no epoch is reported that is not in the storage."""
    store = Store(s3.address(tmp_path.name), "one", patience_s=0)
    request = request_on(tmp_path / "a", synthetic())
    work = Synthetic()

    def cut_off(asked: FitRequest) -> Any:
        for row in work(asked):
            s3.always = "500" if row["epoch"] == 2 else ""
            yield row

    s3.always = "500" if how == "begins" else ""
    try:
        rows = fitted(request, cut_off, store)
    finally:
        s3.always = ""
    assert [(row["epoch"], row["state"]) for row in rows if row["state"] == TrialState.RUNNING] == (
        [] if how == "begins" else [(1, TrialState.RUNNING)]
    )
    assert rows[-1]["state"] == TrialState.MACHINE_FAILED
    assert "is out of reach" in rows[-1]["message"]


def test_a_repeat_leaves_its_result_in_the_storage_and_no_checkpoint(tmp_path: Path) -> None:
    store, run = Store(str(tmp_path / "storage"), "one"), new_run(tmp_path)
    request = FitRequest("x", synthetic(), run.finalists / "x", run.path, 1, 0.0)

    def work(asked: FitRequest) -> Any:
        asked.checkpoint_folder.mkdir(parents=True, exist_ok=True)
        for row in Synthetic()(asked):
            (asked.checkpoint_folder / "state.pt").write_text(f"{row['epoch']}")
            yield row
        return {"score": 0.5}

    work_on(request, work, store)
    kept = store.below("finalists/x").sizes()
    assert "result.json" in kept
    assert "state/state.pt" not in kept
    shutil.rmtree(run.path)
    fetched = FitRequest("x", synthetic(), run.finalists / "x", run.path, 1, 0.0)
    work_on(fetched, Synthetic(), store)
    assert computed_of(fetched) == [1, 2, 3, 4], "its epochs are there"
    assert FitResult.read(fetched.folder) is not None


def computed_of(request: FitRequest) -> list[int]:
    return [int(line) for line in (request.folder / "computed.txt").read_text().split()]


def test_a_real_fit_goes_on_to_the_bit(s3: S3, tmp_path: Path, demo_faces: DemoFaces) -> None:
    """With the photo table from the storage as well."""
    import torch

    from maskcls.training.checkpoint import load_best

    recipe = Recipe(backbone="test_resnet", weights="none", image_size=32, epochs=2, batch_size=16, lr_head=1e-3)
    faces = prepare(demo_faces(18, 1), cache=CacheOptions(tmp_path / "cache"))
    store = Store(s3.address(tmp_path.name), "one")
    faces.save(tmp_path / "data")
    StoredFolder(store.below("data"), tmp_path / "data").send()
    work = functools.partial(run_fit, cache=faces.cache)
    node_a, node_b, alone = (request_on(tmp_path / name, recipe.model_dump()) for name in ("a", "b", "alone"))
    fitted(node_a, work, store, lost_after=1)
    shutil.rmtree(tmp_path / "a")
    fitted(node_b, work, store)
    faces.save(alone.run / "data")
    fitted(alone, work, None)

    def numbers(request: FitRequest) -> list[tuple[Any, ...]]:
        return [(row["epoch"], row["train_loss"], row["scores"]) for row in read_curve(request.folder)]

    assert numbers(node_b) == numbers(alone)
    of_b, of_alone = (load_best(request.folder)[2] for request in (node_b, alone))
    for found, expected in zip(of_b, of_alone, strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
