"""A folder and its place in a storage: what changed is sent, in the order of a disk; what is there is fetched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskcls.errors import OutOfReach
from maskcls.storage.store import Store
from tests.s3 import S3
from tune.runs.stored.folder import StoredFolder

CHECKPOINT = {"best-1.safetensors": "weights", "state.pt": "state of best-1", "epochs.jsonl": "{}\n"}


def filled(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def content(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_comes_back_with_its_times(store: Store, tmp_path: Path) -> None:
    here = filled(tmp_path / "here", {**CHECKPOINT, "state/state.pt": "deep", "empty": ""})
    os.utime(here / "state.pt", (1e9, 1e9))
    assert StoredFolder(store, here).send() == 5
    there = StoredFolder(store, tmp_path / "there")
    assert there.fetch()
    assert content(tmp_path / "there") == content(here)
    assert (tmp_path / "there" / "state.pt").stat().st_mtime == 1e9


def test_what_did_not_change_is_neither_sent_nor_fetched_again(s3: S3, tmp_path: Path) -> None:
    store = Store(s3.address("unchanged"))
    here, there = filled(tmp_path / "here", CHECKPOINT), tmp_path / "there"
    sender = StoredFolder(store, here)
    sender.send()
    StoredFolder(store, there).fetch()
    s3.written()

    assert sender.send() == 0
    assert s3.written() == []
    (here / "state.pt").write_text("state of best-2")
    (here / "epochs.jsonl").write_text("{}\n")  # the same once more
    assert sender.send() == 1
    assert s3.written() == ["/bucket/unchanged/state.pt", "/bucket/unchanged/stored.json"]
    assert StoredFolder(store, here).send() == 0, "a driver that comes later knows it by the index"

    s3.requests.clear()
    StoredFolder(store, there).fetch()
    fetched = {request.rpartition("/")[2] for request in s3.requests if "?" not in request}
    assert fetched & CHECKPOINT.keys() == {"state.pt"}
    assert content(there) == content(here)


def test_objects_are_put_in_the_order_in_which_files_are_written(s3: S3, tmp_path: Path) -> None:
    """So that a sending that was cut leaves what a kill leaves on a disk."""
    files = {"result.json": "", "epochs.jsonl": "", "state.pt": "", "best-1.safetensors": "", "answers.csv": ""}
    StoredFolder(Store(s3.address("order")), filled(tmp_path, dict.fromkeys(files, "1"))).send()
    put = [path.rpartition("/")[2] for path in s3.written()]
    assert put == ["answers.csv", "best-1.safetensors", "state.pt", "epochs.jsonl", "result.json", "stored.json"]


def test_a_sending_that_was_cut_leaves_a_folder_that_goes_on(s3: S3, tmp_path: Path) -> None:
    """The state of the second epoch is there, and the index still says the first."""
    store = Store(s3.address("cut"), patience_s=0)
    here, there = filled(tmp_path / "here", CHECKPOINT), tmp_path / "there"
    sender = StoredFolder(store, here)
    sender.send()
    filled(here, {"best-2.safetensors": "better weights", "state.pt": "state of best-2", "epochs.jsonl": "{}\n{}\n"})
    s3.faults += ["", ""] + 8 * ["500"]
    with pytest.raises(OutOfReach):
        sender.send()
    s3.faults.clear()
    StoredFolder(store, there).fetch()
    expected = {**content(here), "best-1.safetensors": "weights", "epochs.jsonl": "{}\n"}
    assert content(there) == expected
    sender.send()
    StoredFolder(store, there).fetch()
    assert content(there) == content(here)


def test_what_is_gone_is_deleted_when_it_is_said_and_not_before(store: Store, tmp_path: Path) -> None:
    sender = StoredFolder(store, filled(tmp_path / "here", CHECKPOINT))
    sender.send()
    (tmp_path / "here" / "best-1.safetensors").unlink()
    sender.send()
    assert "best-1.safetensors" in store.sizes()
    sender.send(deletes=True)
    assert sorted(store.sizes()) == ["epochs.jsonl", "state.pt", "stored.json"]
    sender.forget(["state.pt"])
    assert "state.pt" in store.sizes(), "it is still here"


def test_files_that_do_not_belong_stay_where_they_are(store: Store, tmp_path: Path) -> None:
    here = filled(tmp_path / "here", {"a": "1", "attempt.json": "{}", ".a.tmp": "1", "below/b": "1"})
    StoredFolder(store, here, deep=False, belongs=lambda name: name != "attempt.json").send()
    assert sorted(store.sizes()) == ["a", "stored.json"]
    there = filled(tmp_path / "there", {"attempt.json": "{'own': 1}"})
    StoredFolder(store, there).fetch()
    assert content(there) == {"a": "1", "attempt.json": "{'own': 1}"}


def test_a_damaged_index_is_as_none(store: Store, tmp_path: Path) -> None:
    here = filled(tmp_path / "here", CHECKPOINT)
    StoredFolder(store, here).send()
    store.put("stored.json", b'{"state.pt": "?"}')
    StoredFolder(store, tmp_path / "there").fetch()
    assert content(tmp_path / "there") == content(here)
    assert StoredFolder(store, here).send() == 3
