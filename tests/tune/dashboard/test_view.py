"""What the dashboard is shown of a run: more than the journal holds, always as it is now, and nothing is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial

from maskcls.errors import RunError
from tests.tune.made_run import add_choice, made_run
from tune.dashboard.view import Drawings, RunView
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import storage_of
from tune.runs.study import COPYING, IMPORTED, METRIC_NAME, new_study, open_study, records
from tune.selection.finalists import Design
from tune.selection.predictions import write_predictions
from tune.selection.record import read_choice
from tune.states import TrialState

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SearchRun:
    run = made_run(tmp_path_factory.mktemp("runs"), 24, message="ValueError: a | b")
    add_choice(run, Design(3, 3))
    return run


def trials_of(run: SearchRun) -> list[FrozenTrial]:
    view = RunView(run)
    (study,) = view.get_all_studies()
    return view.get_all_trials(view.get_study_id_from_name(study.study_name), deepcopy=False)


def attributes(run: SearchRun) -> dict[str, dict[str, Any]]:
    return {f"{trial.number:04d}": trial.user_attrs for trial in trials_of(run)}


def add_answers(run: SearchRun, trial_id: str, fit: str, truth: list[int], predicted: list[int]) -> None:
    """A complete repeat as the pool leaves it."""
    folder = run.finalists / fit
    folder.mkdir(parents=True)
    log_probs = np.where(np.eye(18)[predicted] == 1, 0.0, -9.0)
    write_predictions(folder, [str(n) for n in range(len(truth))], np.array(truth), log_probs)
    FitResult(TrialState.COMPLETE, "", 1, 1, 0.5, 1.0, 1, 0.0, {"trial": trial_id}, {}).write(folder)


def test_the_winner_its_repeats_and_its_holdout_score_stand_beside_their_trials(run: SearchRun) -> None:
    choice = read_choice(run.record())
    assert choice is not None
    assert choice.holdout is not None
    shown = attributes(run)
    roles = {trial: attrs["role"] for trial, attrs in shown.items() if "role" in attrs}
    assert roles == {one.trial: "winner" if one.trial == choice.winner_id else "finalist" for one in choice.finalists}
    for one in choice.finalists:
        assert shown[one.trial]["repeats"] == 3
        assert shown[one.trial]["repeats_mean"] == pytest.approx(one.mean, abs=1e-6)
        assert shown[one.trial]["repeats_sd"] == pytest.approx(one.spread, abs=1e-6)
        assert ("holdout_f1" in shown[one.trial]) == (one.trial == choice.winner_id)
    winner = shown[str(choice.winner_id)]
    assert winner["holdout_f1"] == pytest.approx(choice.holdout.f1, abs=1e-6)
    assert winner["optimism"] == pytest.approx(choice.optimism, abs=1e-6)
    view = RunView(run)
    about = view.get_study_user_attrs(0)
    assert about["winner"] == f"trial {choice.winner_id}"
    assert about["question"] == "How many stages, & which head?"


def test_every_trial_says_its_state_and_why(run: SearchRun) -> None:
    shown = attributes(run)
    for record in records(run):
        one = shown[record.trial_id]
        assert (one["state"], one["message"], one["origin"]) == (record.state, record.message, record.origin)
        assert one.get("best_f1", math.nan) == pytest.approx(
            math.nan if record.f1 is None else record.f1, abs=1e-6, nan_ok=True
        )
    assert shown["0007"]["message"] == "ValueError: a | b"
    assert {one["state"] for one in shown.values()} == {"complete", "stopped early", "diverged", "failed"}


def test_the_metric_has_a_name_and_each_recipe_is_a_table(run: SearchRun) -> None:
    view = RunView(run)
    attrs = view.get_study_system_attrs(0)
    assert attrs["study:metric_names"] == [METRIC_NAME]
    assert open_study(run).metric_names == [METRIC_NAME], "in the journal as well, for Optuna's own plots"
    for record in records(run):
        table = attrs[f"dashboard:{int(record.trial_id)}:note_str:0"].splitlines()
        assert table[:2] == ["| recipe | value |", "|---|---|"]
        cells = dict(row.strip("| ").split(" | ") for row in table[2:])
        assert cells.keys() == record.recipe.keys()
        assert {key for key, value in cells.items() if value.startswith("**")} == record.overrides.keys()


def test_a_trial_without_parameters_shows_its_recipes_values(run: SearchRun) -> None:
    preset, *others = trials_of(run)
    assert open_study(run).get_trials(deepcopy=False)[0].params == {}
    recipe = records(run)[0].recipe
    assert preset.params["lr_head"] == recipe["lr_head"]
    assert preset.params["head"] == recipe["head"]
    common = set.intersection(*(set(trial.params) for trial in (preset, *others)))
    assert {"head", "lr_head"} <= common, "what parallel coordinates show"
    for name in common:
        assert {trial.distributions[name] for trial in (preset, *others)} == {others[0].distributions[name]}


def test_a_view_follows_the_search_and_writes_nothing(tmp_path: Path) -> None:
    run = made_run(tmp_path, 2)
    view = RunView(run)
    study = open_study(run)
    trial = study.ask()
    trial.report(0.25, 1)
    before = run.journal.read_bytes()
    assert [one.number for one in view.get_all_trials(0)] == [0, 1, 2]
    assert view.get_trial(2).user_attrs["state"] == "running"
    assert view.get_trial(2).user_attrs["best_f1"] == 0.25
    assert "role" not in view.get_trial(0).user_attrs
    winner = add_choice(run, Design(1, 2))
    assert view.get_trial(int(winner)).user_attrs["role"] == "winner"
    for write in (
        lambda: view.set_study_user_attr(0, "a", 1),
        lambda: view.set_trial_user_attr(2, "a", 1),
        lambda: view.delete_study(0),
    ):
        with pytest.raises(RunError, match="only shown"):
            write()
    assert run.journal.read_bytes() == before
    study.tell(trial, 0.25)


def test_of_a_widened_search_the_latest_study_is_shown(tmp_path: Path) -> None:
    run = made_run(tmp_path, 2)
    wider = new_study("made+1", storage_of(open_study(run)))
    assert [study.study_name for study in RunView(run).get_all_studies()] == ["made"], "it is not complete"
    wider.add_trial(optuna.create_trial(value=0.5, user_attrs={IMPORTED: "/runs/other/0003"}))
    wider.set_user_attr(COPYING, False)
    (study,) = RunView(run).get_all_studies()
    assert study.study_name == "made+1"
    (trial,) = trials_of(run)
    assert trial.user_attrs == {"state": "of another run", "source": "/runs/other/0003"}


def test_a_run_without_a_trial_is_refused(tmp_path: Path) -> None:
    run = SearchRun.create(tmp_path, "fresh")
    with pytest.raises(RunError, match="fresh has not begun a trial yet"):
        RunView(run)
    assert not run.journal.exists()


def test_a_finalists_confusion_matrix_is_drawn_when_it_is_asked_for(run: SearchRun) -> None:
    choice = read_choice(run.record())
    assert choice is not None
    one, other = choice.finalists[:2]
    add_answers(run, one.trial, "aa", [0, 0, 5], [0, 3, 5])
    with_artifacts = {
        f"{trial.number:04d}"
        for trial in trials_of(run)
        if any(key.startswith("artifacts:") for key in trial.system_attrs)
    }
    assert with_artifacts == {one.trial}, "of finalists with predictions"
    assert Drawings(run).open_reader(one.trial).read(4) == PNG
    with pytest.raises(ArtifactNotFound, match=f"trial {other.trial}"):
        Drawings(run).open_reader(other.trial)
    for refused in (lambda: Drawings(run).remove(one.trial), lambda: Drawings(run).write("1", None)):  # type: ignore[arg-type]
        with pytest.raises(RunError, match="only shown"):
            refused()
