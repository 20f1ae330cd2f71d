"""A search's gauges, read off Ray's own metrics endpoint while it runs."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.tune.searches import make_plan, new_run
from tests.tune.synthetic import NUMBERS, Synthetic
from tune.search.driver import run_search

LINE = re.compile(r"^ray_maskcls_(\w+)\{(.*)\} (\S+)$")


def read_gauges(address: str, run: str) -> dict[str, tuple[dict[str, str], float]]:
    """Gauge name -> its labels and value for the run's trial, as the endpoint gives them now; it may still show an
    earlier run's."""
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
    found = [
        (match[1], dict(re.findall(r'(\w+)="([^"]*)"', match[2])), float(match[3]))
        for match in map(LINE.match, text.splitlines())
        if match
    ]
    return {name: (labels, value) for name, labels, value in found if labels["run"] == run}


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_gauges_show_on_rays_metrics_endpoint_and_vanish(tmp_path: Path) -> None:
    import ray

    node = ray.nodes()[0]
    address = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    seen: list[dict[str, tuple[dict[str, str], float]]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            gauges = read_gauges(address, "watched")
            if gauges:
                seen.append(gauges)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_search(make_plan(1), new_run(tmp_path, "watched"), Synthetic(sleep_s=2))
    finally:
        ended.set()
        watcher.join()
    assert seen, "no gauge was ever shown"
    of_trial = [gauges for gauges in seen if "best_f1" in gauges][-1]
    assert set(of_trial) >= {"validation_f1", "best_f1", "epoch", *NUMBERS} - {"feature_hits", "saved_s"}
    labels, best = of_trial["best_f1"]
    named = (labels["run"], labels["trial"], labels["backbone"], labels["split"])
    assert named == ("watched", "0000", "resnet10t", "single")
    assert (of_trial["photos_per_second"][1], of_trial["train_loss"][1], of_trial["wait_share"][1]) == (100, 0.75, 0.25)
    hits = [gauges["feature_hits_total"][1] for gauges in seen if "feature_hits_total" in gauges]
    assert set(hits) <= {7, 14, 21, 28}, "each epoch's are counted once"
    assert len(set(hits)) > 1
    assert any(gauges["trials"][0]["state"] == "running" for gauges in seen if "trials" in gauges)
    epochs = [gauges["epoch"][1] for gauges in seen if "epoch" in gauges]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) > 1
    assert 0 < best < 1
    deadline = time.monotonic() + 40
    while "best_f1" in read_gauges(address, "watched") and time.monotonic() < deadline:
        time.sleep(1)
    assert "best_f1" not in read_gauges(address, "watched"), "a trial that has ended still shows"
