"""What the search takes for granted of Optuna's trials and studies, a test a fact.

So a release that changes one fails here, by name. Each docstring says who leans on the fact, and what to do where it
does not hold any more. Checked with optuna 5.0.
"""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from tests.tune.studies import journal, numbers, study_of
from tune.runs.optuna_private import id_of, storage_of


def test_trials_are_numbered_in_the_order_of_adding_whatever_their_state() -> None:
    """Leans: tune.runs.study.trial_id, tune.search.warm_start.widen, which keeps each trial's number.

    If it fails: keep our own number as a user attribute.
    """
    study = optuna.create_study()
    study.add_trial(create_trial(value=0.5))
    study.enqueue_trial({"share": 0.5})
    study.add_trial(create_trial(state=OptunaState.FAIL))
    study.add_trial(create_trial(state=OptunaState.RUNNING))
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert [study.ask().number, study.ask().number] == [1, 4]


def test_what_waits_is_asked_first_with_what_it_was_enqueued_with() -> None:
    """Leans: tune.search.first_trials and StudySearch._recipe (user attributes, `fixed_params`), samplers.Proposal
    (`fixed_params`).

    If it fails: enqueue by user attributes of our own.
    """
    study = study_of(numbers, 2)
    study.enqueue_trial({}, user_attrs={"origin": "preset"})
    study.enqueue_trial({"share": 0.5}, user_attrs={"origin": "point 1"})
    waiting = study.trials[2:]
    assert [trial.state for trial in waiting] == [OptunaState.WAITING] * 2
    assert [trial.system_attrs["fixed_params"] for trial in waiting] == [{}, {"share": 0.5}]
    assert [trial.params for trial in waiting] == [{}, {}], "not before they are asked for"
    first, second = study.ask(), study.ask()
    assert [trial.user_attrs["origin"] for trial in (first, second)] == ["preset", "point 1"]
    assert second.suggest_float("share", 0.0, 1.0) == 0.5


def test_a_running_trial_can_be_taken_up_by_its_id(tmp_path: Path) -> None:
    """Leans: StudySearch._next, after a kill.

    If it fails: record it as failed and enqueue its parameters again, at the cost of its number.
    """
    file = tmp_path / "journal"
    killed = study_of(numbers, 1, running=1, storage=journal(file))
    study = optuna.load_study(study_name=killed.study_name, storage=journal(file))
    (stale,) = study.get_trials(states=(OptunaState.RUNNING,))
    trial = optuna.Trial(study, id_of(stale))
    assert (trial.number, trial.params) == (1, stale.params)
    trial.report(0.4, 1)
    study.tell(trial, 0.6)
    after = study.trials[1]
    assert (after.state, after.value, after.intermediate_values) == (OptunaState.COMPLETE, 0.6, {1: 0.4})


def test_running_and_waiting_trials_can_be_added_and_are_what_they_were() -> None:
    """Leans: tune.search.warm_start.widen, which copies a study with all that is begun or waits in it.

    If it fails: ask for them in the new study and write their parameters by samplers.Proposal.
    """
    study = optuna.create_study()
    space = {"share": FloatDistribution(0.0, 1.0)}
    study.add_trial(
        create_trial(
            state=OptunaState.RUNNING, params={"share": 0.5}, distributions=space, intermediate_values={1: 0.3}
        )
    )
    study.add_trial(
        create_trial(
            state=OptunaState.WAITING, system_attrs={"fixed_params": {"share": 0.7}}, user_attrs={"origin": "point 1"}
        )
    )
    asked = study.ask()
    assert (asked.number, asked.user_attrs, asked.suggest_float("share", 0.0, 1.0)) == (1, {"origin": "point 1"}, 0.7)
    running = optuna.Trial(study, id_of(study.trials[0]))
    study.tell(running, 0.9)
    assert (study.trials[0].params, study.trials[0].intermediate_values) == ({"share": 0.5}, {1: 0.3})


def test_a_study_tells_its_storage_and_a_trial_its_id(tmp_path: Path) -> None:
    """Leans: tune.runs.optuna_private, by which one trial is read, and a parameter written that the study's sampler has
    not drawn.

    If it fails: mend the two functions; nothing else reads `_storage` or `_trial_id`.
    """
    storage = journal(tmp_path / "journal")
    optuna.create_study(study_name="first", storage=storage).ask()
    study = optuna.create_study(study_name="second", storage=storage)
    assert storage_of(study) is storage
    asked = study.ask()
    trial = id_of(asked)
    assert trial != asked.number, "numbers count in a study, ids in a storage"
    assert id_of(study.trials[0]) == trial
    assert storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name("second"), 0) == trial
    storage.set_trial_param(trial, "share", 0.5, FloatDistribution(0.0, 1.0))
    assert storage.get_trial(trial).params == {"share": 0.5}


def test_a_random_sampler_draws_and_notes_nothing_when_a_trial_is_begun_or_ended() -> None:
    """Leans: StudySearch.__init__, which sets the study's sampler: `ask` and `tell` call it, and the trial's own
    sampler suggests.

    If it fails: give the study a sampler that does nothing.
    """
    study = study_of(numbers, 12)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    trial = study.ask()
    assert (study.trials[12].params, study.trials[12].system_attrs) == ({}, {})
    study.tell(trial, 0.5)
    assert (study.trials[12].params, study.trials[12].system_attrs) == ({}, {})


def test_telling_a_finished_trial_raises() -> None:
    """Leans: StudySearch.on_trial_complete, which looks first whether it has recorded an end.

    If it fails: nothing to do, but a second end would overwrite the first without a word.
    """
    study = study_of(numbers, 1)
    with pytest.raises(ValueError, match="Cannot tell a COMPLETE trial"):
        study.tell(0, 0.5)


def test_a_pruned_trials_value_is_the_last_that_was_reported_and_a_failed_one_has_none() -> None:
    """Leans: StudySearch._end, which tells only complete trials a value; TPE then splits pruned ones by what they
    reported.

    If it fails: see what TPE reads of a pruned trial.
    """
    study = optuna.create_study(direction="maximize")
    for state in (OptunaState.PRUNED, OptunaState.FAIL):
        trial = study.ask()
        trial.report(0.3, 1)
        trial.report(0.4, 2)
        study.tell(trial, state=state)
    assert [trial.value for trial in study.trials] == [0.4, None]


def test_a_constraint_is_a_system_attribute_that_begins_so() -> None:
    """Leans: StudySearch._end (set_constraint), tune.search.warm_start._copy (keeps system attributes that begin with
    `constraints`).

    If it fails: copy `trial.constraints` by the new way, or diverged trials of a wider space look feasible.
    """
    study = optuna.create_study()
    trial = study.ask()
    trial.set_constraint("diverged", 1.0)
    study.tell(trial, state=OptunaState.PRUNED)
    (frozen,) = study.trials
    assert frozen.system_attrs == {"constraints:diverged": 1.0}
    assert frozen.constraints == {"diverged": 1.0}
    study.add_trial(create_trial(state=OptunaState.PRUNED, system_attrs=frozen.system_attrs))
    assert study.trials[1].constraints == {"diverged": 1.0}


def test_a_parameter_may_change_its_range_and_not_its_choices() -> None:
    """Leans: tune.search.warm_start.widen, which makes a new study of a wider space's trials.

    If it fails because choices may change, too: that study is needed no more.
    """
    study = optuna.create_study()
    first, second = study.ask(), study.ask()
    first.suggest_float("share", 0.0, 1.0)
    first.suggest_categorical("loss", ("focal", "f1"))
    assert second.suggest_float("share", 2.0, 3.0) >= 2.0
    with pytest.raises(ValueError, match="CategoricalDistribution does not support dynamic value space"):
        second.suggest_categorical("loss", ("focal", "f1", "cross_entropy"))


def test_the_upper_end_of_whole_numbers_is_drawn_too() -> None:
    """Leans: search_spaces.Suggest, tune.search.points, which counts it as a point (Ray's randint excludes it).

    If it fails: correct points._Path.suggest_int and every space.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {study.ask().suggest_int("layers", 1, 2) for _ in range(40)} == {1, 2}
