"""The search loop, really run, on a synthetic objective."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState
from ray import tune

from maskcls.errors import CallError, RunError
from search_spaces import Setting, Space
from tests.tune.asked import search
from tests.tune.rungs import rungs_of
from tests.tune.searches import computed, make_plan, new_run, table
from tests.tune.synthetic import LoadsHereAlone, Nonsense, Synthetic, f1
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import open_study, records
from tune.search.driver import MAX_FAILURES, drive, run_search
from tune.search.plan import SearchPlan
from tune.search.schedulers import EpochASHA
from tune.states import TrialState

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_states_are_recorded_in_the_study_and_on_the_leaderboard(tmp_path: Path) -> None:
    run, plan = new_run(tmp_path), make_plan(8)
    ends = (("0001", 2, "exit"), ("0002", 1, "memory"), ("0003", 1, "error"), ("0005", 1, "diverged"))
    assert run_search(plan, run, Synthetic(ends=ends)).reason == Reason.FINISHED
    trials = open_study(run).get_trials()
    found = {record.trial_id: record for record in records(run)}
    assert [found[f"000{n}"].state for n in (0, 1, 2, 3, 5)] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.OUT_OF_MEMORY,
        TrialState.FAILED,
        TrialState.DIVERGED,
    ]
    assert [trials[n].state for n in (2, 3, 5)] == [OptunaState.PRUNED, OptunaState.FAIL, OptunaState.PRUNED]
    # TPE keeps away from what is infeasible.
    constraints = {trial.number: trial.constraints for trial in trials if trial.constraints}
    assert constraints == {2: {"out of memory": 1.0}, 5: {"diverged": 1.0}}
    assert found["0005"].message == "The loss is nan at step 7."
    assert found["0003"].message == "ZeroDivisionError: division by zero"
    assert "ZeroDivisionError" in (run.trial("0003") / "error.txt").read_text()
    assert (run.trial("0001") / "died-2").exists()
    assert computed(run, "0001") == [1, 2, 3, 4], (
        "a worker that died is replaced, and its trial goes on from where it was"
    )
    assert TrialState.STOPPED_EARLY in [record.state for record in found.values()]
    for trial in trials:
        record = found[f"{trial.number:04d}"]
        curve = [f1(record.recipe, epoch) for epoch in range(1, record.epochs + 1)]
        running = [max(curve[:epoch]) for epoch in range(1, len(curve) + 1)]
        assert list(trial.intermediate_values.values()) == running, "the running best, every epoch of it"
        if trial.state == OptunaState.COMPLETE:
            assert record.epochs == 4
            assert trial.value == max(curve) > curve[-1], "best is not the latest"
        if record.state == TrialState.STOPPED_EARLY:
            assert trial.state == OptunaState.PRUNED
            assert record.epochs < 4
    assert {row["trial"]: row["state"] for row in table(run)} == {name: record.state for name, record in found.items()}


def test_a_signal_after_the_last_trials_end_is_not_lost(tmp_path: Path) -> None:
    class Interrupting(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, *_: object, **__: object) -> None:
            signal.raise_signal(signal.SIGTERM)

    run = new_run(tmp_path)
    with run.driving():
        outcome = drive(make_plan(1), run, Synthetic(), callbacks=[Interrupting()])
    assert outcome == Outcome(Reason.INTERRUPTED, 0, signal.SIGTERM)


@pytest.mark.slow
def test_a_trial_outlives_its_workers_as_long_as_it_comes_further(tmp_path: Path) -> None:
    """On machines that may be taken away at any time, a long trial loses many of them."""
    run = new_run(tmp_path)
    ends = (*(("0000", epoch, "exit") for epoch in (1, 2, 3)), ("0001", 2, "crash"))
    run_search(make_plan(2), run, Synthetic(ends=ends))
    assert [record.state for record in records(run)] == [TrialState.COMPLETE, TrialState.FAILED]
    assert computed(run, "0000") == [1, 2, 3, 4]
    begun = [len((run.trial(trial) / "hosts.txt").read_text().split()) for trial in ("0000", "0001")]
    assert begun == [4, MAX_FAILURES + 1], "the one after each death, the other until it came no further"


def test_the_preset_is_trial_0_and_the_sampler_learns_from_it(tmp_path: Path) -> None:
    run, plan = new_run(tmp_path), make_plan(2)
    search(plan, run)
    first, second = records(run)
    assert first.origin == "preset"
    assert first.recipe == plan.recipe({})
    assert first.params == {"frozen_stages": 5, "lr_head": 1e-3}
    assert second.origin == "point 1"
    assert second.params == {"frozen_stages": 2, "lr_head": 1e-3, "lr_body": 1e-4}


def test_a_preset_outside_the_space_is_no_point_of_it(tmp_path: Path) -> None:
    run, plan = new_run(tmp_path), make_plan(2, {"lr_head": 0.2, "weights": "none"})
    outside = SearchPlan(make_plan().space, plan.setting, plan.base, {"epochs": 4}, 2)
    search(outside, run)
    first, second = records(run)
    assert first.params == {}
    assert first.recipe["lr_head"] == 0.2
    assert second.recipe["lr_head"] == 1e-3


def test_explicit_values_win_and_are_not_drawn(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    search(make_plan(3, {"lr_head": 0.02}), run)
    assert [record.recipe["lr_head"] for record in records(run)] == [0.02] * 3
    assert all("lr_head" not in record.params for record in records(run))


@pytest.mark.slow
def test_an_extended_search_is_the_one_that_was_asked_at_once(tmp_path: Path) -> None:
    once, twice = new_run(tmp_path, "once"), new_run(tmp_path, "twice")
    run_search(make_plan(15, seed=3), once, Synthetic())
    run_search(make_plan(1, seed=3), twice, Synthetic())  # the space's point still waits
    run_search(make_plan(13, seed=3), twice, Synthetic())
    run_search(make_plan(15, seed=3), twice, Synthetic())
    assert table(once, seconds=False) == table(twice, seconds=False)
    assert run_search(make_plan(15, seed=3), twice, Synthetic()).remaining == 0
    other = new_run(tmp_path, "other")
    search(make_plan(4, seed=2), other)
    assert records(other)[3].params != records(once)[3].params, "another seed draws others"


@pytest.mark.soak
def test_rungs_are_given_back(tmp_path: Path) -> None:
    run, kept = new_run(tmp_path), []

    class Kept(EpochASHA):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            kept.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune.search.schedulers.EpochASHA", Kept)
        run_search(make_plan(9), run, Synthetic(ends=(("0003", 1, "diverged"),)))
    fresh = EpochASHA(4)
    fresh.replay(open_study(run).get_trials())
    assert rungs_of(kept[0]) == rungs_of(fresh)
    assert len(rungs_of(fresh)[-1][1]) == 8


def test_a_recipe_of_more_epochs_than_the_base_is_not_cut_there() -> None:
    from ray.tune.schedulers import TrialScheduler

    scheduler = EpochASHA(4)
    trial = SimpleNamespace(trial_id="a", config={"trial": "0001"})
    scheduler.on_trial_add(None, trial)
    said = {scheduler.on_trial_result(None, trial, {"epoch": epoch, "best_f1": 0.5}) for epoch in range(1, 9)}
    assert said == {TrialScheduler.CONTINUE}


@pytest.mark.slow
def test_a_full_disk_stops_the_search_and_loses_nothing(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(
        RunError,
        match=r"The disk is full: OSError: .*No space left on device.*Free some space, then go on: .*--resume .*one",
    ):
        run_search(make_plan(4), run, Synthetic(ends=(("0001", 2, "full"),)))
    assert [record.state for record in records(run)] == [TrialState.COMPLETE, TrialState.UNFINISHED]
    assert run_search(make_plan(4), run, Synthetic()).reason == Reason.FINISHED
    assert computed(run, "0001") == [1, 2, 3, 4]
    assert len(records(run)) == 4


@pytest.mark.slow
def test_failures_of_the_machine_stop_the_search_after_three_in_a_row_and_burn_no_trial(tmp_path: Path) -> None:
    run, plan = new_run(tmp_path), make_plan(4, scheduler="none")
    with pytest.raises(
        RunError,
        match=r"3 trials in a row failed by the machine, not by their recipes, the last one with: /mnt/faces/a\.jpg "
        r"cannot be read: .* None of them is lost\. Mend that, then go on: .*--resume .*one$",
    ):
        run_search(plan, run, Synthetic(ends=(("0001", 2, "gone"),)))
    assert [record.state for record in records(run)] == [TrialState.COMPLETE, TrialState.UNFINISHED]
    assert run_search(plan, run, Synthetic(ends=(("0003", 2, "hiccup"),))) == Outcome(Reason.FINISHED, 0)
    assert [record.state for record in records(run)] == [TrialState.COMPLETE] * 4, "one that failed once is done again"
    assert [computed(run, f"{number:04d}") for number in range(4)] == [[1, 2, 3, 4]] * 4


def test_a_search_whose_trials_all_fail_ends_at_once(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(
        RunError,
        match=r"The first 3 trials all failed before their first epoch, the last one with: .*'nonsense' See (\S+)",
    ) as found:
        run_search(make_plan(500), run, Nonsense())
    assert "KeyError" in Path(str(found.value).rpartition(" See ")[2].rstrip(".")).read_text()
    assert [record.state for record in records(run)] == [TrialState.FAILED] * 3


@pytest.mark.soak
def test_a_worker_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a node lacks a package: the trial's code does not load there."""
    monkeypatch.setattr("tune.search.driver.MAX_FAILURES", 0)  # each further start takes seconds
    run = new_run(tmp_path)
    with pytest.raises(RunError, match="The worker failed: ModuleNotFoundError: No module named 'nowhere'"):
        run_search(make_plan(1), run, LoadsHereAlone())
    (only,) = records(run)
    assert only.state == TrialState.UNFINISHED, "a resume on a machine that has the package takes it up"
    assert "Ray's log files" in (run.trial("0000") / "error.txt").read_text()


@pytest.mark.soak
def test_a_process_that_is_lost_to_the_gpu_runs_no_other_trial(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    assert run_search(make_plan(3), run, Synthetic(ends=(("0001", 2, "cuda"),))).reason == Reason.FINISHED
    lost = records(run)[1]
    assert (lost.state, lost.epochs) == (TrialState.FAILED, 1)
    assert lost.message == "RuntimeError: CUDA error: device-side assert triggered"
    assert "_end" in (run.trial("0001") / "error.txt").read_text(), "the traceback is kept"
    assert computed(run, "0001") == [1], "it is not tried again"
    pids = {name: (run.trial(name) / "pid.txt").read_text() for name in ("0000", "0001", "0002")}
    assert pids["0000"] == pids["0001"] != pids["0002"], "actors are reused, but for this one"


def test_what_the_driver_cannot_write_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(run: SearchRun, trials: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.leaderboard))

    monkeypatch.setattr("tune.runs.leaderboard.write", cannot)
    with pytest.raises(RunError, match=r"The disk is full: OSError: .*leaderboard\.csv.*--resume .*one$") as found:
        run_search(make_plan(2), new_run(tmp_path), Synthetic())
    assert "Traceback" not in str(found.value)


def test_a_space_that_gives_no_recipe_is_named(tmp_path: Path) -> None:
    def suggest(trial, setting: Setting):  # type: ignore[no-untyped-def]
        return {"frozen_stage": trial.suggest_int("frozen_stages", 0, 5)}

    plan = make_plan(3)
    wrong = SearchPlan(Space("mine", "?", suggest), plan.setting, plan.base, {}, 3)
    with pytest.raises(CallError, match="Space mine gives an invalid recipe.*frozen_stage.*Did you mean frozen_stages"):
        run_search(wrong, new_run(tmp_path), Synthetic())


def test_two_drivers_do_not_work_on_one_run(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with run.driving(), pytest.raises(RunError, match=r"Another driver is working on .*one\. Wait for it"):
        run_search(make_plan(2), run, Synthetic())
