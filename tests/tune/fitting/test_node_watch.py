"""Which node is set aside, when, and what is said of it. Ray's part in it is tested in tests/cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import commands
from tests.commands import call
from tests.full_disk import fill, small_disk
from tests.tune.made_run import made_run
from tune.fitting import node_watch
from tune.fitting.attempts import Attempt
from tune.fitting.node_watch import NodeWatch
from tune.runs.folder import SearchRun
from tune.runs.joined_ray import gpu_types, nodes_aside
from tune.runs.joined_ray.nodes_aside import MAX_FAILURES, LiveNode, elsewhere, is_aside, node_at, telling
from tune.runs.record import Session, noted
from tune.search.__main__ import main as search
from tune.search.options import SearchOptions
from tune.upkeep.status import main

FULL = "OSError: [Errno 28] No space left on device."


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, LiveNode]]:
    """The nodes that are alive: a and b with two cores each, and the head without any."""
    nodes = {
        name: LiveNode(name, f"10.0.0.{n}", cpus, 0.0)
        for n, (name, cpus) in enumerate(zip("hab", (0, 2, 2), strict=True))
    }
    for module in (nodes_aside, node_watch):
        monkeypatch.setattr(module, "alive", lambda: nodes)
    yield nodes
    nodes_aside._aside.clear()


def watch(messages: list[str] | None = None) -> NodeWatch:
    made = NodeWatch(1, 0.0, "trial")
    made.tell = lambda node, message: (messages if messages is not None else []).append(f"{node.address}: {message}")
    return made


@pytest.mark.usefixtures("there")
def test_a_node_is_set_aside_after_three_failures_in_a_row_there() -> None:
    messages: list[str] = []
    nodes = watch(messages)
    assert elsewhere(1, 0.0) is None
    nodes.failed("a", FULL)
    nodes.failed("a", FULL)
    nodes.worked("b")
    nodes.worked("a")
    assert [nodes.failed("a", FULL) for _ in range(3)] == [False, False, True]
    assert nodes.failed("a", FULL), "of a trial that was on its way there"
    assert messages == [
        "10.0.0.1: Node 10.0.0.1 gets no more trials from this command: 3 in a row failed there by the machine, the "
        f"last one with: {FULL} Other nodes go on with them."
    ]
    assert nodes.must_leave("a")
    assert not nodes.must_leave("b")
    assert elsewhere(1, 0.0) == {"ray.io/node-id": "!in(a)"}


@pytest.mark.usefixtures("there")
def test_a_command_says_how_many_failures_a_node_may_have() -> None:
    said = commands.read(search, SearchOptions.stated, "--space", "freezing", "--max-failures", "2")
    assert (said.max_failures, SearchOptions(space="freezing").max_failures) == (2, 3)
    nodes_aside.allow(said.max_failures)
    try:
        nodes = watch()
        assert [nodes.failed("a", FULL) for _ in range(2)] == [False, True]
    finally:
        nodes_aside.allow(MAX_FAILURES)


@pytest.mark.usefixtures("there")
def test_a_recipe_that_kills_its_workers_sets_no_node_aside_and_three_recipes_do() -> None:
    nodes = watch()
    assert not any(nodes.died("a", "0001", "The actor died.") for _ in range(5))
    assert not nodes.died("a", "0002", "The actor died.")
    assert nodes.died("a", "0003", "The actor died.")


@pytest.mark.usefixtures("there")
def test_workers_that_die_before_they_come_to_a_trial_are_the_nodes_fault() -> None:
    """As where its disk is so full that none can start. Ray says where an actor has died."""
    nodes, died = watch(), "The actor died unexpectedly before finishing this task.\n\tpid: 260\n\tip: 10.0.0.1\nThe …"
    assert [nodes.lost("0001", None, died, "The actor died.") for _ in range(3)] == ["a"] * 3
    assert nodes.must_leave("a")
    short = Attempt(by_ray=True, node="b")
    assert [nodes.lost(trial, short, "low on memory", "low") for trial in "1234"] == ["b"] * 4
    assert not is_aside("b")


def test_the_last_node_that_is_large_enough_is_never_set_aside(there: dict[str, LiveNode]) -> None:
    nodes = watch()
    assert any(nodes.failed("a", FULL) for _ in range(3))
    assert not any(nodes.failed("b", FULL) for _ in range(9))
    del there["b"]
    assert not nodes.must_leave("a"), "its trials stay where they are"
    assert elsewhere(1, 0.0) is None, "the head has no cores"
    assert is_aside("a")


def test_a_node_that_is_too_small_is_no_other_one(there: dict[str, LiveNode]) -> None:
    """Else trials that need a GPU would wait for ever, once the last other node with one is lost."""
    there |= {name: LiveNode(name, f"10.0.1.{n}", 8, 1.0) for n, name in enumerate("xy")}
    nodes_aside.set_aside("x")
    assert elsewhere(1, 1.0) == {"ray.io/node-id": "!in(x)"}
    del there["y"]
    assert elsewhere(1, 1.0) is None
    assert elsewhere(1, 0.0) == {"ray.io/node-id": "!in(x)"}


def test_what_fails_on_a_node_that_is_gone_or_unknown_counts_for_none(there: dict[str, LiveNode]) -> None:
    nodes = watch()
    del there["b"]
    assert not any(nodes.failed(name, FULL) for name in ("b", "b", "b", "", "", ""))


def test_a_node_with_another_type_of_gpu_could_not_take_over(there: dict[str, LiveNode]) -> None:
    for name, gpu_type in (("a", "H100"), ("b", "A10G")):
        there[name] = LiveNode(name, "10.0.0.1", 2, 1.0, gpu_type)
    assert NodeWatch(1, 0.5, "trial").has_others("a")
    gpu_types.run_on("H100")
    try:
        assert not NodeWatch(1, 0.5, "trial").has_others("a")
        assert NodeWatch(1, 0.0, "trial").has_others("a"), "where no GPU is used"
    finally:
        gpu_types.run_on("")


def test_a_node_is_known_by_its_address_and_by_what_its_worker_has_noted(there: dict[str, LiveNode]) -> None:
    assert node_at("10.0.0.1") == node_at("10.0.0.1", "b") == "a", "a note may be of an earlier worker"
    assert node_at("", "b") == "b"
    assert node_at("") == node_at("", "gone") == node_at("10.0.0.9", "a") == ""
    there["c"] = LiveNode("c", "10.0.0.1", 2, 0.0)
    assert node_at("10.0.0.1", "c") == "c"
    assert node_at("10.0.0.1") == "", "two of Ray's nodes on one machine"


def test_a_node_that_is_to_leave_is_set_aside_as_soon_as_another_can_take_over(
    there: dict[str, LiveNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_watch, "_LOOK_S", 0.0)
    monkeypatch.setattr(node_watch, "leaving_nodes", lambda: {"b", "gone"})
    messages: list[str] = []
    nodes, first = watch(messages), there.pop("a")
    nodes.look()
    assert messages == []
    there["a"] = first
    nodes.look()
    nodes.look()
    assert messages == ["10.0.0.2: Node 10.0.0.2 is to leave the cluster: other nodes go on with its trials."]


@pytest.mark.usefixtures("there")
def test_a_full_disk_is_a_nodes_own_where_the_run_has_room_and_others_could_do_its_work(tmp_path: Path) -> None:
    nodes = watch()
    assert nodes.is_full("a", tmp_path)
    assert not nodes.is_full("", tmp_path)
    assert not nodes.is_full("a", tmp_path / "gone")
    assert not NodeWatch(4, 0.0, "trial").is_full("a", tmp_path)
    with small_disk(tmp_path / "small", 2) as disk:
        assert nodes.is_full("a", disk)
        fill(disk)
        assert not nodes.is_full("a", disk)


def test_it_is_said_in_the_record_and_by_status(there: dict[str, LiveNode], tmp_path: Path) -> None:
    run = made_run(tmp_path, 2)
    said: list[str] = []
    message = "Node 10.0.0.1 gets no more trials from this command."
    with noted(run, Session.begun(trials=2)) as end:
        telling(run.path, said.append)(there["a"], message)
        assert message in status(run)
        end("finished")
    assert said == [message]
    assert message in status(run), "also when the search has ended"
    assert run.record().sessions[-1].reason == "finished"
    telling(tmp_path / "no run", said.append)(there["a"], message)


def status(run: SearchRun) -> list[str]:
    return call(main, run.path).out.splitlines()
