"""Many fits on Ray: how each ends, and what a resume does after a kill, a Ctrl-C or an error."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from maskcls.errors import RunError
from maskcls.files import append_line
from tests.commands import start
from tests.tune.search.test_kill import no_worker_left, none_left
from tests.tune.works import EPOCHS, Work, computed, make_requests
from tune.fitting import pool as fits
from tune.fitting.curve import CURVE, NO_EPOCH, read_curve
from tune.fitting.pool import run_fits
from tune.fitting.progress import FitProgress
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.fitting.worker import FitOutcome
from tune.runs.stopping import Outcome, Reason
from tune.states import TrialState

WORDY = "task split: a variant of many words, five binary models"
WORKS = Path(__file__).parents[1] / "works.py"


def drive(folder: Path, n: int, sleep_s: float, parallel: int, address: str) -> subprocess.Popen[str]:
    """A driver at the head of its own process group, as a shell would start it, that joins the tests' Ray."""
    return start(WORKS, folder, n, sleep_s, parallel, address=address)


def wait_for(what: Callable[[], bool], limit_s: float = 90) -> None:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if what():
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {limit_s} s")


def read_result(folder: Path) -> dict[str, Any] | None:
    """What result.json holds, as it stands on disk; None where there is none."""
    file = folder / "result.json"
    return json.loads(file.read_text()) if file.exists() else None


def in_the_middle(requests: list[FitRequest]) -> bool:
    """One fit is done, and another has an epoch behind it."""
    done = [read_result(request.folder) is not None for request in requests]
    return any(done) and any(
        read_curve(request.folder) for request, ended in zip(requests, done, strict=True) if not ended
    )


@pytest.mark.usefixtures("ray_cluster")
def test_every_end_has_its_word(tmp_path: Path) -> None:
    requests = make_requests(tmp_path, 7)
    ends = (
        ("fit-1", 3, "diverged"),
        ("fit-2", 2, "memory"),
        ("fit-3", 2, "error"),
        ("fit-4", 3, "exit"),
        ("fit-5", 2, "cuda"),
    )
    reported: dict[str, FitOutcome] = {}
    outcome = run_fits(
        requests,
        Work(ends=ends),
        parallel=2,
        on_end=lambda request, ended: reported.update({request.trial_id: ended}),
        why_skip=lambda request: "not wanted" if request.trial_id == "fit-6" else "",
    )
    assert outcome == Outcome(Reason.FINISHED, 4), (
        "the two that failed, the one that ran out of memory and the one that was skipped are left to do"
    )
    assert not requests[6].folder.exists()
    states = [reported[f"fit-{number}"].state for number in range(6)]
    assert states == [
        TrialState.COMPLETE,
        TrialState.DIVERGED,
        TrialState.OUT_OF_MEMORY,
        TrialState.FAILED,
        TrialState.COMPLETE,
        TrialState.FAILED,
    ]

    first = read_result(requests[0].folder)
    assert first is not None
    assert (first["state"], first["epochs"], first["best_epoch"], first["answer"]) == (
        TrialState.COMPLETE,
        EPOCHS,
        3,
        pytest.approx(0.85),
    )
    assert first["best_validation_f1"] == pytest.approx(0.3), "the best of a curve that goes up and down"
    assert first["settings"] == {"number": 0}
    assert not requests[0].checkpoint_folder.exists(), "its state is taken away"
    diverged = read_result(requests[1].folder)
    assert diverged is not None
    assert (diverged["state"], diverged["message"], diverged["epochs"]) == (
        TrialState.DIVERGED,
        "The loss is nan at step 7.",
        2,
    )
    assert "answer" not in diverged
    short = read_result(requests[2].folder)
    assert short is not None
    assert (short["state"], short["message"], short["epochs"]) == (
        TrialState.OUT_OF_MEMORY,
        "Tried to allocate 2 GiB.",
        1,
    )
    assert "OutOfMemory" in (requests[2].folder / "error.txt").read_text()
    assert read_result(requests[3].folder) is None
    assert "ZeroDivisionError" in (requests[3].folder / "error.txt").read_text()
    assert computed(requests[4]) == [1, 2, 3, 4], (
        "a worker that died is replaced, and its fit goes on from where it was"
    )
    assert reported["fit-5"].message == "RuntimeError: CUDA error: device-side assert triggered"

    assert run_fits(requests, Work(), parallel=2) == Outcome(Reason.FINISHED, 0), (
        "a resume tries again what is left, and only that"
    )
    assert [computed(requests[number]) for number in (2, 3, 5)] == [[1, 2, 3, 4]] * 3, "from its last epoch"
    assert [(read_result(requests[number].folder) or {})["state"] for number in (2, 3, 5)] == [TrialState.COMPLETE] * 3
    assert computed(requests[1]) == [1, 2]
    assert not (requests[3].folder / "error.txt").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_done_is_not_done_again_and_equal_fits_are_one(tmp_path: Path) -> None:
    requests = make_requests(tmp_path, 2)
    run_fits([*requests, requests[0]], Work(), parallel=1)
    before = [(request.folder / "result.json").stat().st_mtime_ns for request in requests]
    ended: list[str] = []
    run_fits(make_requests(tmp_path, 3), Work(), parallel=1, on_end=lambda request, _: ended.append(request.trial_id))
    assert ended == ["fit-2"]
    assert [(request.folder / "result.json").stat().st_mtime_ns for request in requests] == before


@pytest.mark.usefixtures("ray_cluster")
def test_a_result_that_will_not_do_stays_until_it_is_replaced(tmp_path: Path) -> None:
    (request,) = make_requests(tmp_path, 1)
    run_fits([request], Work(), parallel=1)
    before = (request.folder / "result.json").read_text()
    wants_more = replace(request, settings={"number": 0, "more": True})

    def is_done(asked: FitRequest, result: FitResult) -> bool:
        return dict(asked.settings) == result.settings

    for how in ("error", "memory"):
        broken = Work(ends=((request.trial_id, 3, how),))
        assert run_fits([wants_more], broken, parallel=1, is_done=is_done) == Outcome(Reason.FINISHED, 1)
        assert (request.folder / "result.json").read_text() == before
    assert run_fits([wants_more], Work(), parallel=1, is_done=is_done) == Outcome(Reason.FINISHED, 0)
    assert (read_result(request.folder) or {})["settings"] == {"number": 0, "more": True}
    assert computed(request) == [1, 2, 3, 4] * 2
    assert run_fits([wants_more], Work(), parallel=1, is_done=is_done) == Outcome(Reason.FINISHED, 0)
    assert computed(request) == [1, 2, 3, 4] * 2


@pytest.mark.usefixtures("ray_cluster")
def test_a_full_disk_stops_it_and_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"The disk is full: .*No space left on device.* Free some space, then go on"):
        run_fits(make_requests(tmp_path, 3), Work(ends=(("fit-0", 2, "full"),)), parallel=1)
    assert not (tmp_path / "fits" / "fit-1").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_a_signal_after_the_last_fits_end_is_not_lost(tmp_path: Path) -> None:
    def interrupt(*ended: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    outcome = run_fits(make_requests(tmp_path, 1), Work(), parallel=1, on_end=interrupt)
    assert outcome == Outcome(Reason.INTERRUPTED, 0, signal.SIGTERM)


def test_three_failures_of_the_machine_in_a_row_stop_it(tmp_path: Path) -> None:
    requests = make_requests(tmp_path, 3)
    ends = (("fit-0", 1, "hiccup"), ("fit-1", 2, "gone"))
    with pytest.raises(RunError, match="3 fits in a row failed by the machine, .* cannot be read: Stale file handle"):
        run_fits(requests, Work(ends=ends), parallel=1)
    assert computed(requests[0]) == [1, 2, 3, 4], "one that failed once is done again"
    assert run_fits(requests, Work(), parallel=1) == Outcome(Reason.FINISHED, 0), "and none is lost"
    assert [computed(request) for request in requests] == [[1, 2, 3, 4]] * 3


@pytest.mark.usefixtures("ray_cluster")
def test_where_all_recipes_fail_at_once_the_others_are_not_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = tuple((f"fit-{number}", 1, "error") for number in range(5))
    with pytest.raises(
        RunError, match=r"Fits of 3 different recipes failed and none .*: ZeroDivisionError.*fit-2/error\.txt"
    ):
        run_fits(make_requests(tmp_path, 5), Work(ends=ends), parallel=1)
    assert "fit-0: failed, ZeroDivisionError: division by zero; 1 of 5 fits" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_one_broken_variant_does_not_end_the_others(tmp_path: Path) -> None:
    """Its three repeats fail before the slower, good ones have an epoch."""
    made = make_requests(tmp_path, 6)
    requests = [replace(one, recipe={"epochs": EPOCHS, "number": n // 3, "seed": n % 3}) for n, one in enumerate(made)]
    ends = tuple((f"fit-{number}", 1, "error") for number in range(3))
    assert run_fits(requests, Work(sleep_s=0.2, ends=ends), parallel=4) == Outcome(Reason.FINISHED, 3)
    assert [computed(request) for request in requests[3:]] == [[1, 2, 3, 4]] * 3


@pytest.mark.usefixtures("ray_cluster")
def test_what_has_an_epoch_gives_hope(tmp_path: Path) -> None:
    requests = make_requests(tmp_path, 5)
    with pytest.raises(KeyboardInterrupt):
        fits.work_on(requests[4], _StoppedAfterAnEpoch())
    ends = tuple((f"fit-{number}", 1, "error") for number in range(4))
    assert run_fits(requests, Work(ends=ends), parallel=1) == Outcome(Reason.FINISHED, 4)


class _StoppedAfterAnEpoch(Work):
    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, dict[str, Any]]:
        for epoch in super().__call__(request):
            yield epoch
            raise KeyboardInterrupt
        return {}


@pytest.mark.usefixtures("ray_cluster")
def test_work_that_cannot_be_loaded_there_is_a_failure(tmp_path: Path) -> None:
    class OnlyHere(Work):
        def __reduce__(self) -> tuple[object, ...]:
            return _needs_this_process, (os.getpid(),)

    requests = make_requests(tmp_path, 1)
    assert run_fits(requests, OnlyHere(), parallel=1) == Outcome(Reason.FINISHED, 1)
    assert "nowhere" in (requests[0].folder / "error.txt").read_text()


def _needs_this_process(pid: int) -> Work:
    if os.getpid() != pid:
        import nowhere  # noqa: F401
    return Work()


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_fit_outlives_its_workers_as_long_as_it_comes_further(tmp_path: Path) -> None:
    requests = make_requests(tmp_path, 1)
    ends = tuple(("fit-0", epoch, "exit") for epoch in range(1, EPOCHS + 1))
    assert run_fits(requests, Work(ends=ends), parallel=1) == Outcome(Reason.FINISHED, 0)
    assert computed(requests[0]) == list(range(1, EPOCHS + 1))


def test_a_worker_that_took_the_last_memory_is_out_of_memory(tmp_path: Path) -> None:
    """As Ray tells it: it ended the worker, so there was nobody to write the result."""

    class RayError(Exception):
        pass

    class OutOfMemoryError(RayError):
        pass

    class Ray:
        exceptions = SimpleNamespace(RayError=RayError)

        def get(self, reference: object) -> None:
            raise OutOfMemoryError("Task was killed due to the node running low on memory.")

    (request,) = make_requests(tmp_path, 1)
    request.folder.mkdir(parents=True)
    driver = fits._Driver.__new__(fits._Driver)
    vars(driver).update(
        _ray=Ray(), _sender=None, _flying={1: request}, _on_end=None, failed=0, _progress=FitProgress(1, 0, plain=True)
    )
    driver._progress.begin(request, [])
    again: list[FitRequest] = []
    vars(driver)["_submit"] = again.append
    for _ in range(fits.MAX_RETRIES):
        driver._end(1)
        driver._flying[1] = again[-1]
    assert (again, read_result(request.folder)) == ([request] * fits.MAX_RETRIES, None)
    driver._end(1)
    result = read_result(request.folder)
    assert result is not None
    assert (result["state"], result["epochs"], result["best_validation_f1"]) == (TrialState.OUT_OF_MEMORY, 0, None)
    assert (driver.failed, fits.to_do([request])) == (1, [request]), "a resume tries it again"


def test_a_curve_is_read_again_only_where_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (request,) = make_requests(tmp_path, 1)
    request.folder.mkdir(parents=True)
    read: list[int] = []

    def counting(folder: Path) -> list[dict[str, Any]]:
        curve = read_curve(folder)
        if folder == request.folder:
            read.append(len(curve))
        return curve

    monkeypatch.setattr(fits, "read_curve", counting)
    driver = fits._Driver.__new__(fits._Driver)
    vars(driver).update(_flying={1: request}, _looked_at={}, _sender=None, _progress=FitProgress(1, 0, plain=True))
    driver._progress.begin(request, [])
    for n in (1, 2):
        append_line(request.folder / CURVE, json.dumps({**NO_EPOCH, "epoch": n}))
        for _ in range(3):
            driver._look()
    assert read == [1, 2]


def test_progress_fits_80_columns(tmp_path: Path) -> None:
    progress = FitProgress(240, 200, plain=False)
    curve = [{**NO_EPOCH, "epoch": epoch} for epoch in range(1, 13)]
    requests = [
        FitRequest(str(number), {"epochs": 30}, tmp_path, tmp_path, 1, 0.0, label=f"{WORDY} {number}, repeat 5")
        for number in range(20)
    ]
    for request in requests:
        progress.begin(request, curve[:2])
    progress.look({"3": curve})
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(progress.picture())
    shown = console.export_text().splitlines()
    assert max(map(len, shown)) <= 80
    assert len(shown) == 1 + 12 + 1
    assert re.search(r"five binar… +12/30 +0 s", shown[4])
    assert shown[-1].strip() == "200 of 240 fits"
    progress.end(requests[3], FitOutcome(TrialState.DIVERGED, "The loss is nan."), [])
    assert re.match(r"201 of 240 fits · about \d+ s left$", progress.headline())


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_killed_it_goes_on_where_it_was(tmp_path: Path, ray_cluster: str) -> None:
    requests = make_requests(tmp_path, 6)
    driver = drive(tmp_path, 6, 0.7, 2, ray_cluster)
    wait_for(lambda: in_the_middle(requests))
    driver.kill()
    driver.communicate()
    assert no_worker_left("ray::work_on"), "what works on fits is gone before a resume does"
    done = {
        request.trial_id: (request.folder / "result.json").read_text()
        for request in requests
        if read_result(request.folder)
    }
    assert 0 < len(done) < 6

    assert run_fits(requests, Work(), parallel=2) == Outcome(Reason.FINISHED, 0)
    assert {name: (tmp_path / "fits" / name / "result.json").read_text() for name in done} == done
    for number, request in enumerate(requests):
        assert computed(request) == [1, 2, 3, 4], "no epoch was computed twice, none is missing"
        result = json.loads((request.folder / "result.json").read_text())
        assert result["answer"] == pytest.approx(0.85 + 4 * number / 100), "as an unbroken one has it"


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_ctrl_c_ends_it_cleanly(tmp_path: Path, ray_cluster: str) -> None:
    """For Ctrl-C that Ray's own processes get, too, see tests/tune/search/test_kill.py."""
    requests = make_requests(tmp_path, 20)
    driver = drive(tmp_path, 20, 0.4, 1, ray_cluster)
    wait_for(lambda: in_the_middle(requests))
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == 0, err
    assert out.startswith("interrupted 1"), err
    assert "Stopping: what is done is kept. Press Ctrl-C again to abort at once." in err
    assert "Traceback" not in err
    assert none_left(driver)
    assert no_worker_left("ray::work_on")
