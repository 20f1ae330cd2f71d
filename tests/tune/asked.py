"""A search without Ray: the searcher is called as Ray calls it, one trial at a time, along the synthetic curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from maskcls.training.presets import preset
from search_spaces import Setting, Space, Suggest
from tests.tune.searches import SETTING
from tests.tune.synthetic import f1
from tune.runs.folder import SearchRun
from tune.runs.study import open_study
from tune.search.first_trials import enqueue_initial_trials, n_left
from tune.search.plan import SearchPlan
from tune.search.searcher import StudySearch
from tune.search.warm_start import import_trials
from tune.states import TrialState

Curve = Callable[[dict[str, Any], int], float]


def six(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Six points, one parameter depends on another; the preset is one of them."""
    frozen = trial.suggest_categorical("frozen_stages", (2, 5))
    if frozen == 5:
        return {"frozen_stages": frozen, "lr_head": trial.suggest_categorical("lr_head", (1e-3, 1e-2))}
    return {"frozen_stages": frozen, "lr_body": trial.suggest_categorical("lr_body", (1e-5, 1e-4, 1e-3, 1e-2))}


SIX = Space("six", "Which of six?", six)


def plan_of(space: Space, trials: int, *, epochs: int = 4, **values: Any) -> SearchPlan:
    """A plan over that space, which may vary the epochs, too."""
    return SearchPlan(space, SETTING, preset("contest-2021", "cpu").override({"epochs": epochs}), {}, trials, **values)


def begin(plan: SearchPlan, run: SearchRun) -> StudySearch:
    """What a driver does before it asks for trials."""
    study = open_study(run)
    enqueue_initial_trials(study, plan)
    import_trials(study, plan, plan.learn_from, run)
    return StudySearch(plan, run)


def ask(searcher: StudySearch) -> dict[str, Any] | None:
    """The next trial's config; None where the search ends. Its id among Ray's is its id in the run."""
    key = str(len(searcher.trials))
    config = searcher.suggest(key)
    if config == Searcher.FINISHED:
        return None
    assert config is not None
    searcher.trials[config["trial"]] = searcher.trials.pop(key)
    return config


def report(
    searcher: StudySearch, config: Mapping[str, Any], epochs: Sequence[int], curve: Curve = f1
) -> dict[str, Any]:
    """Tell some epochs of a trial. Returns the last one, a second each."""
    for epoch in epochs:
        best = max(curve(config["recipe"], at) for at in range(1, epoch + 1))
        row = {"epoch": epoch, "best_f1": best, "seconds": float(epoch), "state": TrialState.RUNNING, "config": config}
        searcher.on_trial_result(config["trial"], row)
    return row


def search(plan: SearchPlan, run: SearchRun, curve: Curve = f1) -> StudySearch:
    """The whole search, each trial to its last epoch."""
    searcher = begin(plan, run)
    while n_left(searcher.study, plan.trials) > 0 and (config := ask(searcher)):
        last = report(searcher, config, range(1, config["recipe"]["epochs"] + 1), curve)
        searcher.on_trial_complete(config["trial"], {**last, "state": TrialState.COMPLETE})
    return searcher
