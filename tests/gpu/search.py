"""Step `search`: a whole search of 12 trials with `--gpus-per-trial auto`, by the command itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from time import perf_counter
from typing import Any

from tests.gpu.bench import Bench
from tests.gpu.findings import Findings

TRIALS = {"cuda": 12, "cpu": 3}
SPACE = {
    "cuda": ("--space", "freezing", "--scale", "gpu", "--gpus-per-trial", "auto", "--epochs", "3"),
    "cpu": ("--space", "backbones", "--scale", "cpu", "--set", "image_size=32", "--epochs", "1"),
}
BACKBONE = ("--set", "backbone=resnet50", "--set", "image_size=224")
"""On a GPU: a network whose trials share it."""
NAME = "gpu-search"


def measure(bench: Bench, findings: Findings) -> None:
    """Run the search and read its events."""
    began = perf_counter()
    events = _search(bench)
    findings.measured("from the command to its end", perf_counter() - began, "s")
    (done,) = [event for event in events if event["event"] == "done"]
    findings.check("there is a model", done["status"] == 0 and bool(done["bundle"]), done["reason"])
    ended = [event for event in events if event["event"] == "trial_ended"]
    if not ended:
        raise SystemExit(f"No trial ended: {done['message'] or 'see the log'}")
    states = Counter(event["state"] for event in ended)
    said = ", ".join(f"{n} {state}" for state, n in states.items())
    findings.check("all trials came to an end", len(ended) == TRIALS[bench.device], len(ended), "trials", said)
    findings.check("none failed", not states["failed"] and not states["out of memory"], note=said)
    findings.measured("trials at a time, at most", _at_a_time(events), "trials")
    findings.measured("trials alone", _seconds(events, "trial_begun", "trial_ended"), "s")
    for holdout in (event for event in events if event["event"] == "holdout"):
        findings.measured("macro F1 on the holdout", holdout["f1"], note=f"{holdout['low']} to {holdout['high']}")


def _search(bench: Bench) -> list[dict[str, Any]]:
    trials = str(TRIALS[bench.device])
    words = ["--data", str(bench.photos), "--weights", str(bench.weights or "none"), *SPACE[bench.device]]
    words += [*(BACKBONE if bench.device == "cuda" else ()), "--trials", trials, "--finalists", "1", "--repeats", "2"]
    words += ["--name", NAME, "--runs", str(bench.folder / "runs"), "--cache", str(bench.folder / "cache"), "--json"]
    # Its standard error, what people read, goes into the step's log.
    call = [sys.executable, "-m", "tune.search", *words]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    if not events:
        raise SystemExit(f"{' '.join(call)} ended with {done.returncode} and reported nothing.")
    return events


def _at_a_time(events: Sequence[dict[str, Any]]) -> int:
    """The most trials that had begun and not ended."""
    running, most = 0, 0
    for event in events:
        running += (event["event"] == "trial_begun") - (event["event"] == "trial_ended")
        most = max(most, running)
    return most


def _seconds(events: Sequence[dict[str, Any]], first: str, last: str) -> float:
    """From the first event of one name to the last one of the other."""
    times = {name: [datetime.fromisoformat(e["time"]) for e in events if e["event"] == name] for name in (first, last)}
    return (max(times[last]) - min(times[first])).total_seconds()
