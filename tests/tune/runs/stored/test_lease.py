"""One driver at a time works on a run in a storage: a note that is renewed, and expires by the waiting one's clock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from maskcls.errors import RunError
from maskcls.machine import process_space
from maskcls.storage.store import Store
from tune.runs.stored import lease as leases
from tune.runs.stored.lease import LEASE, Lease, held

ELSEWHERE = {"owner": "other", "wrote": "others", "machine": "other-machine", "pid": 7, "renewals": 3, "ended": False}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(leases, "RENEWED_S", 0.05)
    monkeypatch.setattr(leases, "_SETTLES_S", 0.1)
    return Store(str(tmp_path / "storage"), "one", patience_s=0)


def test_a_run_is_held_renewed_and_given_back(store: Store) -> None:
    with held(store) as lease:
        first = store.read_json(LEASE)
        assert (first["owner"], first["pid"], first["ended"]) == (lease.owner, os.getpid(), False)
        deadline = time.monotonic() + 20
        while store.read_json(LEASE)["renewals"] < first["renewals"] + 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert store.read_json(LEASE)["ended"]
    with held(store) as again:
        assert again.wrote == "", "it has put nothing there"


def test_a_renewal_that_is_under_way_does_not_hold_the_run_after_its_end(store: Store) -> None:
    renewing, may_end = threading.Event(), threading.Event()
    lease = Lease(store)
    lease.take(0.0)

    def renew() -> None:
        renewing.set()
        may_end.wait()
        lease._write(store)

    renewal = threading.Thread(target=renew)
    renewal.start()
    renewing.wait()
    threading.Timer(0.2, may_end.set).start()
    lease.end(renewal)
    assert store.read_json(LEASE)["ended"]


def test_a_second_driver_is_refused_while_the_first_one_renews(store: Store) -> None:
    with (
        held(store),
        pytest.raises(RunError, match=r"Another driver is working on .*/one: process \d+ on .*\. Wait for it, or end"),
        held(store),
    ):
        pass


def test_a_note_that_nobody_renews_expires_whatever_it_says_of_the_time(store: Store) -> None:
    store.put_json(LEASE, ELSEWHERE)
    began = time.monotonic()
    with held(store, expires_s=0.4) as lease:
        assert time.monotonic() - began >= 0.4, "until then the other one may live"
        assert lease.wrote == "others"


def test_a_driver_that_ends_while_another_waits_is_followed_at_once(store: Store) -> None:
    store.put_json(LEASE, ELSEWHERE)
    threading.Timer(0.3, store.put_json, (LEASE, {**ELSEWHERE, "ended": True})).start()
    with held(store, expires_s=60):
        pass


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(store: Store) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    store.put_json(LEASE, {**ELSEWHERE, "pids_of": process_space(), "pid": gone.pid})
    with held(store, expires_s=60):
        pass


def test_a_driver_in_another_container_of_the_same_name_is_waited_for(store: Store) -> None:
    """As of `ray up`, where all containers have their machine's name, and numbers of processes of their own."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    there = f"{process_space().split()[0]} pid:[1]"
    store.put_json(LEASE, {**ELSEWHERE, "machine": os.uname().nodename, "pids_of": there, "pid": gone.pid})
    began = time.monotonic()
    with held(store, expires_s=0.4):
        assert time.monotonic() - began >= 0.4


def test_of_two_that_begin_the_same_new_run_one_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither finds a note of the other; this one writes first."""
    assert store.read_json(LEASE) == {}, "pyarrow is imported"
    monkeypatch.setattr(leases, "_SETTLES_S", 0.5)
    threading.Timer(0.2, store.put_json, (LEASE, {**ELSEWHERE, "pid": 8})).start()
    with pytest.raises(RunError, match="process 8 on other-machine"), held(store):
        pass


def test_of_two_at_the_same_moment_one_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one writes its note after this one."""
    store.put_json(LEASE, {**ELSEWHERE, "ended": True})
    monkeypatch.setattr(leases, "_SETTLES_S", 0.5)
    threading.Timer(0.2, store.put_json, (LEASE, {**ELSEWHERE, "pid": 8})).start()
    with pytest.raises(RunError, match="process 8 on other-machine"), held(store):
        pass
    assert store.read_json(LEASE)["pid"] == 8, "what the other one holds is left to it"


def test_a_driver_that_was_away_for_too_long_learns_that_it_was_replaced(store: Store) -> None:
    with held(store) as lease:
        store.put_json(LEASE, ELSEWHERE)
        deadline = time.monotonic() + 20
        while not lease.lost and time.monotonic() < deadline:
            store.put_json(LEASE, ELSEWHERE)  # a renewal may have been under way
            time.sleep(0.02)
        assert lease.lost.startswith(f"Another driver has taken over {store}: process 7 on other-machine.")
    assert store.read_json(LEASE) == ELSEWHERE


def test_a_storage_out_of_reach_is_said_before_anything_is_begun(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(RunError, match=r"The storage .*/file/runs/one .*Nothing was begun\."),
        held(Store(str(tmp_path / "file" / "runs"), "one")),
    ):
        pass
