"""deploy/monitoring: a real Prometheus scrapes a real search, and every panel of the dashboard has its data."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tune.searches import make_plan, new_run
from tests.tune.synthetic import NUMBERS, Synthetic
from tune.runs.study import records
from tune.search.driver import run_search

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text())
QUERIES = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
RUN = "monitored"
START_S = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def query(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """The series of an expression now: labels as `metric`, and `value`."""
    with urllib.request.urlopen(
        f"{prometheus}/api/v1/query?query={urllib.parse.quote(expression)}", timeout=10
    ) as answer:
        content = json.loads(answer.read())
    assert content["status"] == "success"
    return [{"metric": one["metric"], "value": float(one["value"][1])} for one in content["data"]["result"]]


@pytest.fixture
def prometheus(ray_cluster: str, tmp_path: Path) -> Iterator[str]:
    """A Prometheus with the repository's configuration, but for this test's Ray and more often; its address."""
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus on this machine (apt-get install prometheus)")
    from ray._private.worker import global_worker

    session = Path(global_worker.node.get_session_dir_path())
    config = (FOLDER / "prometheus.yml").read_text()
    for ours, here in {
        "/tmp/ray/prom_metrics_service_discovery.json": str(session / "prom_metrics_service_discovery.json"),
        "scrape_interval: 5s": "scrape_interval: 1s",
        "scrape_timeout: 4s": "scrape_timeout: 1s",
        "refresh_interval: 10s": "refresh_interval: 1s",
    }.items():
        assert ours in config
        config = config.replace(ours, here)
    (tmp_path / "prometheus.yml").write_text(config)
    address = f"127.0.0.1:{free_port()}"
    words = ("--config.file", tmp_path / "prometheus.yml", "--storage.tsdb.path", tmp_path / "data")
    with (tmp_path / "prometheus.log").open("w") as log:
        server = subprocess.Popen(
            ["prometheus", *map(str, words), "--web.listen-address", address], stdout=log, stderr=log
        )
        try:
            wait_until(lambda: answers(f"http://{address}/-/ready"), (tmp_path / "prometheus.log").read_text)
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except OSError:
        return False


def wait_until(true: Any, why: Any) -> None:
    deadline = time.monotonic() + START_S
    while not true():
        assert time.monotonic() < deadline, why()
        time.sleep(0.2)


@pytest.mark.soak
def test_prometheus_has_every_series_and_every_panel_its_data(prometheus: str, tmp_path: Path) -> None:
    run = new_run(tmp_path, RUN)
    found: dict[str, list[dict[str, Any]]] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for _, expression in QUERIES:
                now = query(prometheus, expression.replace("$run", RUN))
                if now or expression not in found:
                    found[expression] = now

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ends = (("0001", 2, "error"), ("0002", 2, "exit"))
        run_search(make_plan(4, scheduler="none", parallel=2), run, Synthetic(sleep_s=2.5, ends=ends), plain=True)
        time.sleep(4)  # Ray passes numbers on every two seconds
    finally:
        ended.set()
        watcher.join()
    empty = [title for title, expression in QUERIES if not found[expression]]
    assert empty == []
    by_trial = {one.trial_id: one for one in records(run)}
    history = {
        # A trial whose worker died has series of two workers.
        name: query(
            prometheus, f'max by (trial, backbone, split) (max_over_time(ray_maskcls_{name}{{run="{RUN}"}}[5m]))'
        )
        for name in ("best_f1", "epoch", "train_loss", "wait_share", "photos_per_second")
    }
    for name, series in history.items():
        assert {one["metric"]["trial"] for one in series} == set(by_trial), name
        for one in series:
            assert (one["metric"]["backbone"], one["metric"]["split"]) == ("resnet10t", "single")
    for one in history["best_f1"]:
        assert one["value"] == pytest.approx(by_trial[one["metric"]["trial"]].f1)
    assert {one["metric"]["trial"]: one["value"] for one in history["epoch"]} == {
        trial_id: record.epochs for trial_id, record in by_trial.items()
    }
    for name in ("train_loss", "wait_share", "photos_per_second"):
        assert {one["value"] for one in history[name]} == {NUMBERS[name]}
    counted = query(prometheus, f'sum by (trial) (max_over_time(ray_maskcls_feature_hits_total{{run="{RUN}"}}[5m]))')
    hits = {one["metric"]["trial"]: one["value"] for one in counted}
    assert hits == {trial_id: NUMBERS["feature_hits"] * record.epochs for trial_id, record in by_trial.items()}
    states = query(prometheus, f'max_over_time(ray_maskcls_trials{{run="{RUN}"}}[5m])')
    assert {one["metric"]["state"]: one["value"] for one in states} == {"running": 2, "complete": 3, "failed": 1}
    failures = query(prometheus, f'max_over_time(ray_maskcls_failures_total{{run="{RUN}"}}[5m])')
    assert {one["metric"]["kind"]: one["value"] for one in failures} == {"failed": 1, "worker died": 1}


def test_each_panel_asks_for_series_that_the_readme_lists() -> None:
    listed = (FOLDER / "README.md").read_text()
    assert len(QUERIES) >= 10
    names = {name for _, expression in QUERIES for name in re.findall(r"ray_maskcls_(\w+)", expression)}
    for name in names:
        assert f"ray_maskcls_{name}`" in listed or f"`_{name}`" in listed, name
