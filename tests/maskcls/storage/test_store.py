"""A storage takes whole files and gives them back, through errors and cut connections, and says when it cannot."""

from __future__ import annotations

import pickle
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maskcls.errors import CallError, OutOfReach
from maskcls.storage.address import checked
from maskcls.storage.store import START_S, Store
from tests.s3 import S3


def test_objects_are_put_listed_fetched_replaced_and_deleted(store: Store, tmp_path: Path) -> None:
    store.put("a.json", b"{}")
    store.below("trials/0007").put("state.pt", b"1")
    store.below("trials/0007").put("state.pt", b"12")
    assert store.sizes() == {"a.json": 2, "trials/0007/state.pt": 2}
    assert store.sizes(deep=False) == {"a.json": 2}
    assert store.below("trials").sizes() == {"0007/state.pt": 2}
    store.fetch("trials/0007/state.pt", tmp_path / "new" / "state.pt")
    assert (tmp_path / "new" / "state.pt").read_bytes() == b"12"
    store.delete("trials/0007/state.pt")
    store.delete("trials/0007/state.pt")
    assert store.sizes() == {"a.json": 2}


def test_what_is_not_there_is_none(store: Store, tmp_path: Path) -> None:
    assert store.read("nothing") is None
    assert store.read_json("nothing") == {}
    assert store.sizes() == {}
    with pytest.raises(FileNotFoundError):
        store.fetch("nothing", tmp_path / "nothing")
    store.put("broken.json", b"{")
    assert store.read_json("broken.json") == {}


def test_a_worker_may_be_given_it(store: Store) -> None:
    store.put("a", b"1")
    assert pickle.loads(pickle.dumps(store)).read("a") == b"1"


def test_large_objects_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    """Several parts, sent and fetched."""
    content = bytes(range(256)) * (20 << 12)
    store.put("large", content)
    store.fetch("large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == content == store.read("large")


def test_a_small_object_is_one_request(s3: S3) -> None:
    Store(s3.address("one")).put("a.json", b"{}")
    assert s3.requests == ["PUT /bucket/one/a.json"]


@pytest.mark.parametrize("fault", ["500", "cut"])
def test_what_fails_for_a_while_is_tried_again(s3: S3, fault: str, tmp_path: Path) -> None:
    store = Store(s3.address(f"tried-{fault}"), patience_s=20)
    s3.faults += [fault] * 3  # one more than pyarrow itself tries
    store.put("a", b"whole")
    s3.faults += [fault] * 3
    store.fetch("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert s3.faults == []


def test_a_slow_storage_is_waited_for(s3: S3) -> None:
    s3.latency_s = 0.3
    store = Store(s3.address("slow"), patience_s=0)
    store.put("a", b"whole")
    assert store.read("a") == b"whole"


def test_a_put_that_fails_leaves_what_was_there(s3: S3) -> None:
    store = Store(s3.address("kept"), patience_s=0)
    store.put("a", b"before")
    with s3.failing("cut"), pytest.raises(OutOfReach, match="is out of reach"):
        store.put("a", b"after")
    assert store.read("a") == b"before"


def test_expired_credentials_are_said_and_renewed_ones_are_taken(s3: S3) -> None:
    store = Store(s3.address("refused"), patience_s=0)
    refused = r"The storage s3://bucket/refused refuses this machine's credentials, or they have expired \(.*\)\. Renew"
    with s3.failing("expired"):
        with pytest.raises(OutOfReach, match=refused):
            store.put("a", b"1")
        with pytest.raises(OutOfReach, match=refused):
            store.read("a")
        with pytest.raises(OutOfReach, match=refused):
            store.sizes()
    store.put("a", b"1")


def test_a_bucket_that_is_not_there_is_named(s3: S3) -> None:
    with pytest.raises(OutOfReach, match=r"The storage s3://nowhere/runs: there is no such bucket \(.*\)\. Make it"):
        Store(s3.address("runs", bucket="nowhere"), patience_s=0).put("a", b"1")


def test_nobody_at_the_address_is_one_message(s3: S3) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:{listening.getsockname()[1]}"
        store = Store(address).trying(START_S, at_start=True)
        with pytest.raises(
            OutOfReach, match=r"The storage s3://bucket/runs is out of reach \(.*\)\. Check the address"
        ):
            store.read("a")


@pytest.mark.slow
def test_a_server_that_says_nothing_is_out_of_reach(s3: S3) -> None:
    with s3.failing("silent"), pytest.raises(OutOfReach, match="is out of reach"):
        Store(s3.address("silent")).trying(0, at_start=True).read("a")


def test_a_folder_that_may_not_be_written_is_named(unprivileged: Path) -> None:
    (unprivileged / "storage").mkdir(mode=0o500)
    with pytest.raises(OutOfReach, match=r"The storage .*/storage/runs"):
        Store(str(unprivileged / "storage" / "runs"), patience_s=0).put("a", b"1")


def test_two_that_put_the_same_object_at_once_both_succeed(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "storage"), "one")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put_json("lease.json", {"owner": number}), range(200)))
    assert store.read_json("lease.json")["owner"] in range(200)
    assert [file.name for file in (tmp_path / "storage" / "one").iterdir()] == ["lease.json"]


def test_what_lies_above_the_place_is_left_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "storage"), patience_s=0)
    store.put("a", b"1")
    store.put(".hidden", b"1")
    assert store.sizes() == {"a": 1}
    assert sorted(file.name for file in (tmp_path / "storage").iterdir()) == [".hidden", "a"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "--storage is empty. Expected a folder, or an address such as s3://bucket/runs"),
        ("s3://KEY:SECRET@bucket/runs", "--storage has a key in its address"),
        ("s3://bucket/runs?secret_key=SECRET", "--storage has a key in its address"),
        ("abfs://:KEY@account.dfs.core.windows.net/runs", "--storage has a key in its address"),
        ("abfs://runs@account.dfs.core.windows.net/a?sig=SECRET", "--storage has a key in its address"),
        ("s3://bucket/runs?endpoint=here", "there is no option endpoint. Expected region, scheme, endpoint_override."),
    ],
)
def test_wrong_addresses_are_refused(given: str, said: str) -> None:
    with pytest.raises(CallError, match=re.escape(said)) as refused:
        checked(given)
    assert not re.search("SECRET|:KEY", str(refused.value).replace("AWS_SECRET_ACCESS_KEY", ""))


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(CallError, match=r"ftp://here/runs: .*\. Expected a folder, or an address such as s3"):
        Store("ftp://here/runs").read("a")


def test_a_folder_is_an_absolute_path_and_none_is_no_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checked("runs") == str(tmp_path / "runs")
    assert checked("none") is None
    assert checked("gs://bucket/runs") == "gs://bucket/runs"
    assert checked("abfs://runs@account.dfs.core.windows.net/a") == "abfs://runs@account.dfs.core.windows.net/a"
