"""The steps of `tests.gpu` in their order, each with its time limit and what it needs; and how one is run.

A step is a module with a function `measure(bench, findings)`. It runs in a process of its own, because after an error
of CUDA a process can do nothing more on the GPU. What it does not end in time is killed, with all that it has started.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import perf_counter

from tests.benchmarks.process_tree import SAMPLE_S, Tree
from tests.benchmarks.report import ROOT
from tests.gpu.findings import Finding, read_findings

LEAST_S = 5.0
"""A step is not begun with less time than that."""
LAST_LINES = 12
CLASSIFIER = (
    *("albumentations", "cv2", "filelock", "pandas", "psutil", "pydantic", "safetensors", "scipy", "sklearn"),
    *("timm", "tomli_w", "torch", "typer"),
)
"""What everything needs that trains a classifier."""


@dataclass(frozen=True)
class Step:
    """A part of the script.

    Args:
        name: as the table has it.
        module: has `measure`.
        limit_s: after so long it is killed.
        needs: modules that must be importable; without them it is left out.
    """

    name: str
    module: str
    limit_s: float
    needs: tuple[str, ...] = CLASSIFIER


STEPS = (
    Step("device", "tests.gpu.device", 45, ("torch",)),
    Step("fits", "tests.gpu.fits", 90),
    Step("resume", "tests.gpu.resume", 90),
    Step("speed", "tests.gpu.speed", 75),
    Step("memory", "tests.gpu.memory", 60),
    Step("sharing", "tests.gpu.sharing", 75),
    Step("attention", "tests.gpu.attention", 45, ("timm", "torch")),
    Step("validation", "tests.gpu.validation", 45),
    Step("search", "tests.gpu.search", 150, (*CLASSIFIER, "ray", "optuna", "cmaes")),
    Step("augmentation", "tests.gpu.augmentation", 45, (*CLASSIFIER, "torchvision")),
    Step("tests", "tests.gpu.cuda_tests", 75, (*CLASSIFIER, "pytest", "hypothesis")),
)


class State(StrEnum):
    """How a step ended."""

    DONE = "done"
    WRONG = "a check does not hold"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    LEFT_OUT = "left out"
    NOT_BEGUN = "not begun"

    @property
    def is_bad(self) -> bool:
        """Whether something is to be mended."""
        return self in (State.WRONG, State.FAILED, State.TIMED_OUT)


@dataclass(frozen=True)
class Ended:
    """A step that is over.

    Args:
        step: its name.
        state: how it ended.
        seconds: how long it ran.
        reason: why it is not done; "" where it is.
        findings: all of them where it is done, else those until then.
        peak_pss_gb: the most memory of all its processes together, without the GPU's.
        tail: the last lines of its log where it is not done.
    """

    step: str
    state: State
    seconds: float = 0.0
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    peak_pss_gb: float = 0.0
    tail: str = ""


def run_step(
    step: Step,
    folder: Path,
    *,
    python: str,
    options: Sequence[str],
    missing: Iterable[str],
    remaining_s: float,
    patience: float = 1.0,
) -> Ended:
    """Run a step in a process of its own, for as long as its limit and the remaining time allow.

    Args:
        folder: of all steps' files; the step's own begin with its name.
        python: the interpreter.
        options: of `tests.gpu.step`, the same for all steps.
        missing: modules that cannot be imported.
        patience: a factor on the step's limit, for slower devices.
    """
    lacking = [name for name in step.needs if name in set(missing)]
    if lacking:
        return Ended(step.name, State.LEFT_OUT, reason=f"not installed: {', '.join(lacking)}")
    limit_s = min(patience * step.limit_s, remaining_s)
    if limit_s < LEAST_S:
        return Ended(step.name, State.NOT_BEGUN, reason=f"{max(remaining_s, 0):.0f} s were left")
    out, log = folder / f"{step.name}.json", folder / f"{step.name}.log"
    call = [python, "-m", "tests.gpu.step", step.module, "--out", str(out), "--folder", str(folder), *options]
    began = perf_counter()
    status, tree = _run(call, log, limit_s)
    findings = tuple(read_findings(out))
    if status is None:
        state, reason = State.TIMED_OUT, f"ended after {limit_s:.0f} s; {_last(log, 1)}"
    elif status:
        state, reason = State.FAILED, _last(log, 1)
    else:
        wrong = [finding.what for finding in findings if finding.holds is False]
        state, reason = (State.WRONG, "; ".join(wrong)) if wrong else (State.DONE, "")
    tail = "" if state == State.DONE else _last(log, LAST_LINES)
    return Ended(step.name, state, perf_counter() - began, reason, findings, tree.peak_pss_mb / 1e3, tail)


def _run(call: Sequence[str], log: Path, limit_s: float) -> tuple[int | None, Tree]:
    """The exit status, None where the time was up; and what its processes took."""
    until = perf_counter() + limit_s
    with log.open("w") as stream:
        process = subprocess.Popen(
            call,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=_environment(),
            start_new_session=True,
        )
        tree = Tree(process.pid)
        status: int | None = None
        try:
            while perf_counter() < until and status is None:
                tree.sample()
                with suppress(subprocess.TimeoutExpired):
                    status = process.wait(SAMPLE_S)
        finally:  # also where Ctrl-C ends the script
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            tree.kill()
            process.wait()
    return status, tree


def _environment() -> Mapping[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _last(log: Path, lines: int) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def is_success(ended: Iterable[Ended]) -> bool:
    """Whether some step is done and none went wrong. One that was left out, or not begun, is no error."""
    states = {each.state for each in ended}
    return State.DONE in states and not any(state.is_bad for state in states)
