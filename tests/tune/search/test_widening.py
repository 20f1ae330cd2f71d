"""A run's own trials are kept under a wider space."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import optuna
import pytest
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from maskcls.errors import RunError
from search_spaces import Space, get
from tests.tune.asked import ask, plan_of, report, search
from tests.tune.rungs import rungs_of
from tests.tune.searches import computed, new_run
from tests.tune.synthetic import SPACE, Synthetic, f1
from tests.tune.two_spaces import NARROW, WIDE, WIDE_DISTRIBUTIONS, decades_off, ended_every_way, learnt_of, outcome_of
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import storage_of
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import COPYING, PRESET, is_own, open_study, records
from tune.search import samplers, schedulers
from tune.search.driver import run_search
from tune.search.first_trials import enqueue_initial_trials
from tune.search.plan import TPE, SearchPlan
from tune.search.searcher import StudySearch
from tune.search.warm_start import known_trials, study_for_space, widen
from tune.states import TrialState


def widened(run: SearchRun, space: Space = WIDE, trials: int = 20) -> optuna.Study:
    return widen(open_study(run), plan_of(space, trials))


def test_a_wider_space_keeps_every_trial(tmp_path: Path) -> None:
    run = ended_every_way(tmp_path)
    study = open_study(run)
    study.enqueue_trial({"head": "mlp"}, user_attrs={"origin": "point 9"})
    searcher = StudySearch(plan_of(NARROW, 20), run)
    study.enqueue_trial({"lr_head": 1e-2}, user_attrs={"origin": "point 10"})
    config = ask(searcher)
    assert config is not None
    report(searcher, config, [1, 2])
    trials, shown = study.get_trials(), records(run)
    assert [trial.state for trial in trials[-2:]] == [OptunaState.RUNNING, OptunaState.WAITING]

    widened(run)
    wider = open_study(run)
    assert wider.study_name == "old+1"
    copies = wider.get_trials()
    assert [(trial.number, *outcome_of(trial), trial.user_attrs) for trial in copies] == [
        (trial.number, *outcome_of(trial), trial.user_attrs) for trial in trials
    ]
    for copy, trial in zip(copies[:-1], trials[:-1], strict=True):
        assert copy.params == {**trial.params, "label_smoothing": 0.0}
        assert copy.distributions == {name: WIDE_DISTRIBUTIONS[name] for name in copy.params}
    assert [copy.system_attrs.get("fixed_params") for copy in copies[-2:]] == [{"head": "mlp"}, {"lr_head": 1e-2}]
    strip = [{**vars(record), "params": None} for record in records(run)]
    assert strip == [{**vars(record), "params": None} for record in shown]
    assert studies_rungs(study) == studies_rungs(wider)

    again = StudySearch(plan_of(WIDE, 20), run)
    assert ask(again) == config, "what ran is taken up"
    waited = ask(again)
    assert waited is not None
    assert waited["trial"] == "0017"
    assert waited["recipe"]["lr_head"] == 1e-2


def studies_rungs(study: optuna.Study) -> list[tuple[float, list[float]]]:
    scheduler = schedulers.EpochASHA(4)
    scheduler.replay(trial for trial in study.get_trials() if is_own(trial))
    return rungs_of(scheduler)


def test_the_sampler_goes_on_from_all_trials_in_the_wider_space(tmp_path: Path) -> None:
    run = new_run(tmp_path, "old")
    search(plan_of(NARROW, 30), run)
    widened(run)
    study = open_study(run)
    sampler = samplers.create(TPE, 0, 30)
    # A parameter that TPE models; any other it would draw at random, until it was drawn often enough.
    assert sampler.infer_relative_search_space(study, study.get_trials()[0]) == WIDE_DISTRIBUTIONS
    search(plan_of(WIDE, 60), run)
    new = records(run)[30:]
    assert len(records(run)) == len({str(record.recipe) for record in records(run)}) == 60
    assert any(record.recipe["head"] == "linear" or record.recipe["frozen_stages"] == 0 for record in new), (
        "what is new is tried, too"
    )
    assert mean(map(decades_off, new)) < 1, "of up to 3 where it knew nothing"


def test_a_trial_outside_the_new_space_keeps_its_score_and_its_number(tmp_path: Path) -> None:
    run = new_run(tmp_path, "old")
    search(plan_of(WIDE, 12), run)
    shown = records(run)
    widened(run, NARROW)
    assert [(record.trial_id, record.f1, record.recipe) for record in records(run)] == [
        (r.trial_id, r.f1, r.recipe) for r in shown
    ]
    assert any(not record.params for record in records(run))
    search(plan_of(NARROW, 14), run)
    assert len(records(run)) == 14


def test_a_space_of_the_same_name_that_another_version_changed_is_another_one(tmp_path: Path) -> None:
    run = new_run(tmp_path, "old")
    plan = plan_of(NARROW, 4)
    study_for_space(open_study(run), plan, "backbones")
    search(plan, run)
    assert study_for_space(open_study(run), plan, "backbones").study_name == "old", "nothing changed"
    wider = study_for_space(open_study(run), plan_of(WIDE, 6), "backbones")
    assert wider.study_name == "old+1"
    search(plan_of(WIDE, 6), run)
    assert len(records(run)) == 6


def test_what_was_learnt_stays_known_under_a_wider_space(tmp_path: Path) -> None:
    old, run = ended_every_way(tmp_path), new_run(tmp_path, "one")
    plan = plan_of(NARROW, 2, learn_from=(old.path,))
    search(plan, run)
    before = learnt_of(run)
    widened(run)
    after = learnt_of(run)
    assert [outcome_of(copy) for copy in after] == [outcome_of(copy) for copy in before]
    assert [copy.params for copy in after] == [{**copy.params, "label_smoothing": 0.0} for copy in before]
    search(plan_of(WIDE, 3, learn_from=(old.path,)), run)
    assert len(learnt_of(run)) == 15
    assert len(records(run)) == 3


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_copy_that_a_killed_driver_left_half_made_is_ignored_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Killed after so many trials were copied."""
    run = ended_every_way(tmp_path)
    shown, add, added = records(run), optuna.Study.add_trial, list[FrozenTrial]()

    def killed(self: optuna.Study, trial: FrozenTrial) -> None:
        if len(added) == after:
            raise KeyboardInterrupt
        added.append(trial)
        add(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            widened(run)
    assert open_study(run).study_name == "old"
    assert records(run) == shown
    widened(run)
    assert open_study(run).study_name == "old+2"
    assert [(record.trial_id, record.f1) for record in records(run)] == [
        (record.trial_id, record.f1) for record in shown
    ]


def test_a_copy_of_which_there_is_only_a_name_is_none(tmp_path: Path) -> None:
    run = ended_every_way(tmp_path)
    shown = records(run)
    optuna.create_study(study_name="old+1", storage=storage_of(open_study(run)), direction="maximize")
    assert records(run) == shown
    optuna.load_study(study_name="old+1", storage=storage_of(open_study(run))).set_user_attr(COPYING, True)
    assert records(run) == shown


def test_a_space_may_be_widened_twice(tmp_path: Path) -> None:
    run = ended_every_way(tmp_path)
    shown = records(run)
    widened(run)
    search(plan_of(WIDE, 18), run)
    widened(run, SPACE)
    assert open_study(run).study_name == "old+2"
    assert [record.recipe for record in records(run)[:16]] == [record.recipe for record in shown]
    assert search(plan_of(SPACE, 20), run).study.study_name == "old+2"
    assert [record.trial_id for record in records(run)] == [f"{n:04d}" for n in range(20)]


def test_only_another_space_makes_a_copy(tmp_path: Path) -> None:
    run = new_run(tmp_path, "old")
    plan = plan_of(NARROW, 2)
    assert study_for_space(open_study(run), plan, "narrow").study_name == "old"
    search(plan, run)
    assert study_for_space(open_study(run), plan, "narrow").study_name == "old"
    assert study_for_space(open_study(run), plan_of(WIDE, 2), "wide").study_name == "old+1"
    assert study_for_space(open_study(run), plan_of(WIDE, 2), "wide").study_name == "old+1"
    assert len(records(run)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_is_taken_up_in_its_middle_under_a_wider_space(tmp_path: Path) -> None:
    run, plan = new_run(tmp_path), plan_of(NARROW, 4, scheduler="none")
    with pytest.raises(RunError, match="The disk is full"):
        run_search(plan, run, Synthetic(ends=(("0001", 3, "full"),)))
    assert [record.state for record in records(run)] == [TrialState.COMPLETE, TrialState.UNFINISHED]
    before = records(run)[1]
    widen(open_study(run), plan_of(WIDE, 4))
    assert run_search(SearchPlan(WIDE, plan.setting, plan.base, {}, 4, scheduler="none"), run, Synthetic()) == Outcome(
        Reason.FINISHED, 0
    )
    after = records(run)
    assert [record.trial_id for record in after] == ["0000", "0001", "0002", "0003"]
    assert after[0].origin == PRESET
    assert after[1].recipe == before.recipe
    assert computed(run, "0001") == [1, 2, 3, 4]
    assert after[1].f1 == max(f1(before.recipe, epoch) for epoch in range(1, 5))


def test_a_preset_that_waits_is_widened_to_the_point_that_it_is(tmp_path: Path) -> None:
    """Or the sampler would draw what the old space did not vary, and take it for the preset's."""
    run, plan = new_run(tmp_path), plan_of(WIDE, 1)
    enqueue_initial_trials(open_study(run), plan_of(NARROW, 1))
    widen(open_study(run), plan)
    search(plan, run)
    (record,) = records(run)
    assert record.origin == PRESET
    assert record.recipe == plan.recipe({})
    assert record.params == {name: record.recipe[name] for name in record.params}
    assert "label_smoothing" in record.params


def test_all_trials_of_freezing_are_known_to_everything(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    search(plan_of(get("freezing"), 12), run)
    wider = plan_of(get("everything"), 14)
    assert str(known_trials(wider, run)) == "12 of 12 trials with a score are known to this space."
    widen(open_study(run), wider)
    assert all({"augmentation", "backbone", "frozen_stages"} <= record.params.keys() for record in records(run))
    assert samplers.StudyView(open_study(run).study_name, storage_of(open_study(run))).trials == open_study(run).trials
