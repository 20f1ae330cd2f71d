"""What was tried is not tried again, and a space that is used up ends the search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from search_spaces import Setting, Space, Suggest
from tests.tune.asked import SIX, ask, begin, plan_of, report, search
from tests.tune.searches import SETTING, new_run, table
from tests.tune.synthetic import Synthetic
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import Record, is_own, open_study, records
from tune.search import samplers
from tune.search.driver import run_search
from tune.search.plan import GRID, MODEL_AFTER, RANDOM, TPE
from tune.search.searcher import ATTEMPTS
from tune.states import TrialState

IDS = [f"{n:04d}" for n in range(6)]
RAY = pytest.mark.usefixtures("ray_cluster")


def recipes(found: list[Record]) -> list[str]:
    return [json.dumps(record.recipe, sort_keys=True) for record in found]


def choices(found: list[Record]) -> list[tuple[int, float, float]]:
    """What SIX varies, of each trial."""
    return sorted(
        (record.recipe["frozen_stages"], record.recipe["lr_head"], record.recipe["lr_body"]) for record in found
    )


def folders(run: SearchRun) -> list[str]:
    return sorted(folder.name for folder in run.trials.iterdir())


def hundred(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """A hundred points, so that a sampler comes back to what is good long before they are used up."""
    rates = tuple(10 ** (-5 + n / 5) for n in range(20))
    return {
        "lr_head": trial.suggest_categorical("lr_head", rates),
        "frozen_stages": trial.suggest_int("frozen_stages", 0, 4),
    }


HUNDRED = Space("hundred", "Which of a hundred?", hundred)


@pytest.mark.soak
@RAY
def test_a_finite_space_ends_after_each_of_its_points_once(tmp_path: Path) -> None:
    run, plan = new_run(tmp_path), plan_of(SIX, 20, scheduler="none")
    assert run_search(plan_of(SIX, 6, scheduler="none"), run, Synthetic()) == Outcome(Reason.FINISHED, 0)
    assert len(set(recipes(records(run)))) == 6
    assert run_search(plan, run, Synthetic()) == Outcome(Reason.USED_UP, 14)
    shown, found = table(run), records(run)
    assert sorted(row["trial"] for row in shown) == IDS, "what was not run is on no leaderboard"
    assert run_search(plan, run, Synthetic()) == Outcome(Reason.USED_UP, 14)
    assert (table(run), records(run), folders(run)) == (shown, found, IDS), (
        "a used-up search that is resumed ends at once"
    )


@pytest.mark.parametrize("sampler", [TPE, RANDOM, GRID])
def test_each_point_of_a_finite_space_is_drawn_once(tmp_path: Path, sampler: str) -> None:
    run, plan = new_run(tmp_path), plan_of(SIX, 20, sampler=sampler)
    assert search(plan, run).used_up
    found = records(run)
    assert [record.trial_id for record in found] == IDS
    assert found[0].origin == "preset"
    base = plan.base
    heads, bodies = (
        [(5, rate, base.lr_body) for rate in (1e-3, 1e-2)],
        [(2, base.lr_head, rate) for rate in (1e-5, 1e-4, 1e-3, 1e-2)],
    )
    assert choices(found) == sorted(heads + bodies)
    assert len(set(recipes(found))) == 6


@pytest.mark.parametrize("sampler", [TPE, GRID])
def test_what_an_earlier_version_tried_is_not_tried_again(tmp_path: Path, sampler: str) -> None:
    """Its recipes lack the keys that came since."""
    run = new_run(tmp_path)
    search(plan_of(SIX, 3, sampler=sampler), run)
    written = run.journal.read_text()
    assert written.count('"epoch_photos":0,') == 3
    run.journal.write_text(written.replace('"epoch_photos":0,', ""))
    assert "epoch_photos" not in records(run)[0].recipe
    assert search(plan_of(SIX, 20, sampler=sampler), run).used_up
    assert len(set(choices(records(run)))) == len(records(run)) == 6


@pytest.mark.soak
@RAY
def test_what_failed_or_diverged_is_not_tried_again_by_two_at_a_time(tmp_path: Path) -> None:
    run, ends = new_run(tmp_path), (("0001", 1, "diverged"), ("0002", 1, "error"), ("0004", 2, "exit"))
    assert run_search(plan_of(SIX, 20, parallel=2, scheduler="none"), run, Synthetic(ends=ends)) == Outcome(
        Reason.USED_UP, 14
    )
    found = records(run)
    assert [record.state for record in found] == [
        TrialState.COMPLETE,
        TrialState.DIVERGED,
        TrialState.FAILED,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.COMPLETE,
    ]
    assert len(set(recipes(found))) == 6
    assert sorted(row["trial"] for row in table(run)) == folders(run) == IDS


def test_the_same_seed_draws_the_same_in_a_used_up_space(tmp_path: Path) -> None:
    first, second = new_run(tmp_path, "first"), new_run(tmp_path, "second")
    for run in (first, second):
        assert search(plan_of(SIX, 9, seed=5), run).used_up
    assert records(first) == records(second)


@pytest.mark.slow
def test_a_repeat_is_replaced_by_the_samplers_next_suggestion(tmp_path: Path) -> None:
    """Asked of a study of Optuna's own, with the same samplers."""
    run, seed = new_run(tmp_path), 3
    searcher = search(plan_of(HUNDRED, 40, seed=seed), run)
    trials, replaced = searcher.study.get_trials(deepcopy=False), 0
    assert len(set(recipes(records(run)))) == len(trials) == 40
    for trial in trials[1:]:
        before = trials[1 : trial.number]  # the preset is no point of this space
        suggested = [_optunas_own(before, seed, 0)]
        while suggested[-1] in [other.params for other in before] and len(suggested) < ATTEMPTS:
            suggested.append(_optunas_own(before, seed, len(suggested)))
        if suggested[-1] not in [other.params for other in before]:  # else it knew none that was not tried
            assert trial.params == suggested[-1]
            replaced += len(suggested) > 1
    assert replaced >= 5, "the sampler came back to what it had tried, or this test shows nothing"


def _optunas_own(before: list[optuna.trial.FrozenTrial], seed: int, attempt: int) -> dict[str, Any]:
    study = optuna.create_study(
        direction="maximize", sampler=samplers.create(TPE, seed, len(before) + 1, attempt, model_after=MODEL_AFTER[TPE])
    )
    study.add_trials(before)
    trial = study.ask()
    hundred(trial, SETTING)
    return trial.params


def test_a_search_resumed_after_every_trial_is_the_unbroken_one(tmp_path: Path) -> None:
    once, often = new_run(tmp_path, "once"), new_run(tmp_path, "often")
    search(plan_of(HUNDRED, 30, seed=2), once)
    for trials in range(1, 31):
        search(plan_of(HUNDRED, trials, seed=2), often)
    assert records(once) == records(often)


@pytest.mark.parametrize("sampler", [TPE, RANDOM, GRID])
def test_a_parameter_that_changes_no_recipe_does_not_keep_a_search_going(tmp_path: Path, sampler: str) -> None:
    def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
        trial.suggest_float("mood", 0.0, 1.0)
        return {"frozen_stages": trial.suggest_categorical("frozen_stages", (2, 4, 5))}

    run, plan = new_run(tmp_path), plan_of(Space("moody", "?", suggest), 30, sampler=sampler)
    assert search(plan, run).used_up
    assert sorted(record.recipe["frozen_stages"] for record in records(run)) == [2, 4, 5]


def test_a_point_that_is_the_presets_recipe_is_withdrawn_and_the_next_one_is_taken(tmp_path: Path) -> None:
    def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
        trial.suggest_categorical("unused", ("a", "b"))  # no value of a recipe, so the preset is no point of the space
        return {"frozen_stages": trial.suggest_int("frozen_stages", 0, 5)}

    def points(setting: Setting) -> list[dict[str, Any]]:
        return [{"unused": "a", "frozen_stages": 5}, {"unused": "b", "frozen_stages": 3}]

    run = new_run(tmp_path)
    search(plan_of(Space("twice", "?", suggest, points), 3), run)
    found = records(run)
    assert [(record.origin, record.recipe["frozen_stages"]) for record in found[:2]] == [("preset", 5), ("point 2", 3)]
    assert [record.origin for record in found] == ["preset", "point 2", "sampled"]
    assert len(set(recipes(found))) == 3
    withdrawn = [trial for trial in open_study(run).get_trials() if not is_own(trial)]
    assert [trial.state for trial in withdrawn] == [OptunaState.FAIL]
    assert withdrawn[0].number not in [int(record.trial_id) for record in found]


def test_a_trial_that_runs_is_taken_up_and_not_taken_for_a_repeat(tmp_path: Path) -> None:
    run, plan = new_run(tmp_path), plan_of(SIX, 8)
    searcher = begin(plan, run)
    first, second = ask(searcher), ask(searcher)
    assert first is not None
    assert second is not None
    report(searcher, second, [1, 2])
    again = begin(plan, run)
    assert [ask(again), ask(again)] == [first, second]
    others = [config["recipe"] for config in iter(lambda: ask(again), None)]
    assert again.used_up
    assert len({json.dumps(recipe) for recipe in (first["recipe"], second["recipe"], *others)}) == 6


def test_a_driver_killed_before_a_trial_had_its_recipe_changes_nothing(tmp_path: Path) -> None:
    unbroken, killed = new_run(tmp_path, "unbroken"), new_run(tmp_path, "killed")
    search(plan_of(HUNDRED, 14), unbroken)
    search(plan_of(HUNDRED, 12), killed)
    open_study(killed).ask()
    search(plan_of(HUNDRED, 14), killed)
    assert records(unbroken) == records(killed)


def test_a_trial_that_a_killed_driver_was_withdrawing_is_none_of_a_later_space(tmp_path: Path) -> None:
    """SIX is used up; the driver dies between the mark and the end; more stages may be frozen then."""

    def wider(trial: Suggest, setting: Setting) -> dict[str, Any]:
        return {"frozen_stages": trial.suggest_categorical("stages", (0, 1, 3))}

    run = new_run(tmp_path)
    search(plan_of(SIX, 6), run)
    open_study(run).ask().set_user_attr("withdrawn", True)
    assert not search(plan_of(Space("wider", "?", wider), 9), run).used_up
    found = records(run)
    assert len(found) == 9
    assert all(record.state == TrialState.COMPLETE for record in found)
    assert OptunaState.RUNNING not in [trial.state for trial in open_study(run).get_trials()]
