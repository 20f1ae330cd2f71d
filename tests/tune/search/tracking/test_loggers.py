"""--log: what TensorBoard, MLflow and W&B are given of a real search, read back from their files and servers."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maskcls.errors import CallError, RunError
from tests.tune.searches import make_plan, new_run
from tests.tune.synthetic import Synthetic
from tune.runs.folder import SearchRun
from tune.runs.study import open_study, records
from tune.search.driver import run_search
from tune.search.options import SearchOptions
from tune.search.plan import LOGGERS
from tune.search.tracking import loggers

START_S = 300  # MLflow imports for a minute on a busy machine


def searched(run: SearchRun, logger: str, trials: int = 3, **ended: Any) -> dict[str, dict[int, float]]:
    """Search; returns each trial's best F1 by epoch, under the name that a logger has for it."""
    run_search(make_plan(trials), run, Synthetic(**ended), plain=True, log=[logger])
    values = {trial.number: trial.intermediate_values for trial in open_study(run).get_trials()}
    return {f"{one.trial_id}-{one.recipe['backbone']}": values[int(one.trial_id)] for one in records(run)}


def events(file: Path) -> Iterator[Any]:
    """The events of a TensorBoard file: records of a length (uint64), a checksum, the content and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content, at = file.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += 12 + length + 4


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_tensorboard_has_every_epoch_and_the_recipe_under_the_runs_names(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    expected = searched(run, "tensorboard")
    files = list(run.experiment.glob("001/*/events.out.tfevents.*"))
    assert {file.parent.name for file in files} == set(expected)
    assert len(expected) == 3
    for file in files:
        found, tags = {}, set()
        for event in events(file):
            for value in event.summary.value:
                tags.add(value.tag)
                if value.tag == "ray/tune/best_f1":
                    found[event.step] = value.simple_value
        assert found == pytest.approx(expected[file.parent.name], abs=1e-6)
        assert "_hparams_/session_start_info" in tags
        assert b"recipe/lr_head" in file.read_bytes()


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_resumed_search_names_its_trials_alike(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    searched(run, "tensorboard", 1)
    expected = searched(run, "tensorboard", 2)
    by_part = {part.name: {folder.name for folder in part.glob("*/")} for part in run.experiment.glob("*/")}
    assert by_part == {"001": {sorted(expected)[0]}, "002": {sorted(expected)[1]}}


def test_a_logger_that_fails_is_switched_off_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    called: list[str] = []

    def fails(*arguments: Any, **named: Any) -> None:
        called.append("result")
        raise ConnectionError("the server\nis gone")

    callback = loggers._SwitchedOffByErrors(
        "mlflow", SimpleNamespace(setup=lambda: called.append("setup"), on_trial_result=fails)
    )
    callback.setup()
    callback.on_trial_result(1, [], None, {})
    callback.on_trial_result(2, [], None, {})
    callback.on_trial_complete(2, [], None)
    assert called == ["setup", "result"]
    assert capsys.readouterr().err == (
        "--log mlflow failed and is switched off; the search goes on: the server is gone\n"
    )
    assert callback.__getstate__() == {}


@pytest.mark.parametrize("name", LOGGERS)
def test_without_its_package_one_sentence_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"tensorboard": "tensorboardX"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RunError) as error:
        loggers.check_installed([name])
    assert str(error.value) == (
        f"--log {name} needs the package {package}, which is not installed. "
        f"Install it with: pip install 'maskcls[{name}]'"
    )


def test_loggers_are_named_once_and_kept_by_the_run(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="--log must be one of tensorboard, mlflow, wandb, but got 'comet'"):
        SearchOptions(log=("comet",))
    asked = SearchOptions(space="freezing", log=("mlflow", "tensorboard", "mlflow"))
    assert asked.log == ("mlflow", "tensorboard")
    recorded = SearchOptions.recorded(SimpleNamespace(call=asked.to_record()))
    assert recorded.log == asked.log
    assert SearchOptions.recorded(SimpleNamespace(call={"space": "freezing"})).log == (), "of a run before --log"


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("a backbone", {"trial": "0007", "recipe": {"backbone": "resnet10t"}}, "0007-resnet10t"),
        ("one at the hub", {"trial": "0007", "recipe": {"backbone": "hf-hub:a/b"}}, "0007-hf-hub_a_b"),
        ("none", {"trial": "0007"}, "0007"),
    ],
)
def test_a_trials_name_may_be_a_folders(name: str, config: dict[str, Any], expected: str) -> None:
    assert loggers.trial_name(SimpleNamespace(config=config)) == expected


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on this machine; its address."""
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = (
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        tmp_path / "artifacts",
    )
    words = ("-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1, *store)
    with (tmp_path / "server.log").open("w") as log:
        # Without its job runners, of which it would start seven processes.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(
            [sys.executable, *map(str, words)], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
            while not _answers(f"{address}/health"):
                assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
            yield address
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_mlflow_has_the_trials_below_their_run(
    tmp_path: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    run = new_run(tmp_path)
    searched(run, "mlflow", 2, ends=(("0001", 1, "error"),))
    expected = searched(run, "mlflow", 3, ends=(("0001", 1, "error"),))
    client = MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name(loggers.PROJECT)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (one for one in runs if "mlflow.parentRunId" not in one.data.tags)
    assert (parent.info.run_name, parent.info.status) == (run.name, "FINISHED")
    children = {one.info.run_name: one for one in runs if one is not parent}
    assert set(children) == set(expected)
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {parent.info.run_id}
    recipes = {f"{one.trial_id}-{one.recipe['backbone']}": one.recipe for one in records(run)}
    for name, child in children.items():
        assert float(child.data.params["recipe/lr_head"]) == pytest.approx(recipes[name]["lr_head"])
        history = {one.step: one.value for one in client.get_metric_history(child.info.run_id, "best_f1")}
        assert {step: history[step] for step in expected[name]} == pytest.approx(expected[name])
        assert child.info.status == "FINISHED"


@pytest.mark.soak
def test_an_mlflow_server_that_does_not_answer_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RunError, match=r"--log mlflow: http://127\.0\.0\.1:9 does not answer: .*MLFLOW_TRACKING_URI"):
        loggers.create(["mlflow"], new_run(tmp_path))


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_wandb_keeps_its_runs_in_the_search_while_it_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = new_run(tmp_path)
    expected = searched(run, "wandb", 2)
    found = {}
    for file in run.experiment.glob("wandb/offline-run-*/*.wandb"):
        about, history = _wandb_records(file)
        assert (about.run_group, about.project) == (run.name, loggers.PROJECT)
        assert "recipe" in {item.key for item in about.config.update}
        found[about.display_name] = history
    assert found.keys() == expected.keys()
    for name, history in found.items():
        assert history == pytest.approx(expected[name])


def _wandb_contents(file: Path) -> Iterator[bytes]:
    """The records of a W&B file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def _wandb_records(file: Path) -> tuple[Any, dict[int, float]]:
    """The record of a W&B run, and its best F1 by step."""
    from wandb.proto import wandb_internal_pb2

    about, history = None, {}
    for content in _wandb_contents(file):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.HasField("run"):
            about = record.run
        if record.HasField("history"):
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            history[int(items["_step"])] = items["best_f1"]
    return about, history
