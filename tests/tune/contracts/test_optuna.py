"""What the search takes for granted of Optuna, a test a fact, so that a release which changes one fails here, by name.

Each docstring says who leans on the fact, and what to do where it does not hold any more. Checked with optuna 5.0,
cmaes 0.13.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from tests.tune.studies import Ask, conditional, draft, numbers, score, seen, study_of
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import id_of, storage_of
from tune.runs.study import open_study
from tune.search import samplers
from tune.search.plan import CMAES, GP, RANDOM, TPE

# Optuna's trials and studies


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


# Optuna's journal


def journal(file: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(file)))


def test_studies_are_listed_in_the_order_of_being_made(tmp_path: Path) -> None:
    """Leans: tune.runs.study._current, which takes the last one that is whole, and tune.search.warm_start.widen, which
    counts them.

    If it fails: number the studies in their names.
    """
    file = tmp_path / "journal"
    for name in ("zebra", "ant", "zebra+2"):
        optuna.create_study(study_name=name, storage=journal(file)).set_user_attr("copying", name == "ant")
    assert optuna.get_all_study_names(journal(file)) == ["zebra", "ant", "zebra+2"]
    assert optuna.load_study(study_name="ant", storage=journal(file)).user_attrs == {"copying": True}


def test_a_journal_that_is_read_stays_as_it_is_and_tells_what_another_process_wrote(tmp_path: Path) -> None:
    """Leans: tune.runs.study.records, which readers call while a search runs.

    If it fails: have readers copy the journal first.
    """
    file = tmp_path / "journal"
    writer = study_of(numbers, 2, storage=journal(file))
    before = file.read_bytes()
    reader = optuna.load_study(study_name=writer.study_name, storage=journal(file))
    assert len(reader.get_trials(deepcopy=False)) == 2
    assert file.read_bytes() == before
    writer.ask().report(0.5, 1)
    assert reader.get_trials(deepcopy=False)[2].intermediate_values == {1: 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]


def test_a_torn_last_line_is_read_and_breaks_the_next_write(tmp_path: Path) -> None:
    """Leans: RunFolder.mend, which cuts it off before a driver writes.

    If it fails because the write works: that cut is needed no more. If reading fails: `records` must cut as well.
    """
    run = SearchRun.create(tmp_path, "one")
    name = study_of(numbers, 2, storage=journal(run.journal)).study_name
    with run.journal.open("a") as file:
        file.write('{"op_code": 8, "worker_id": "torn in the mid')
    spoilt = tmp_path / "spoilt"
    shutil.copy(run.journal, spoilt)
    torn = optuna.load_study(study_name=name, storage=journal(spoilt))
    assert len(torn.trials) == 2
    with pytest.raises((AttributeError, ValueError)):
        torn.ask()
    run.mend()
    assert optuna.load_study(study_name=name, storage=journal(run.journal)).ask().number == 2


def test_a_lock_that_a_killed_driver_left_blocks_the_journal(tmp_path: Path) -> None:
    """Leans: RunFolder.mend, which removes `study.journal.lock*`, and tune.runs.study._RunJournal, which takes no lock.

    If it fails because it does not block: both are needed no more.
    """
    file = tmp_path / "journal"
    lock = Path(f"{file}.lock")
    lock.symlink_to(file)
    waiting = JournalFileSymlinkLock(str(file))
    taken = threading.Event()

    def acquire() -> None:
        waiting.acquire()
        taken.set()

    thread = threading.Thread(target=acquire, daemon=True)
    thread.start()
    assert not taken.wait(0.5)
    lock.unlink()
    assert taken.wait(10)
    waiting.release()


def test_a_journal_whose_append_logs_is_overridden_makes_no_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leans: tune.runs.study._RunJournal.append_logs, which writes without Optuna's lock; reading takes none.

    If it fails: remove the lock before every write, or search under Optuna's own.
    """
    linked: list[Any] = []
    symlink = os.symlink

    def counted(*paths: Any) -> None:
        linked.append(paths)
        symlink(*paths)

    monkeypatch.setattr(os, "symlink", counted)
    study = open_study(SearchRun.create(tmp_path, "one"))
    study.tell(study.ask(), 0.5)
    assert linked == []
    optuna.create_study(storage=journal(tmp_path / "plain"))
    assert linked != [], "if this one fails alone, nothing has to be overridden for the lock's sake"


def test_a_line_of_the_journal_says_by_its_code_and_its_keys_what_it_is(tmp_path: Path) -> None:
    """Leans: tune.runs.study._RunJournal.append_logs, which waits for the disk at a trial's end and at its recipe.

    If it fails: find those lines by what they have now, or a machine that fails loses ended trials.
    """
    file = tmp_path / "journal"
    study = optuna.create_study(storage=journal(file))
    trial = study.ask()
    trial.set_user_attr(records.RECIPE, {"lr_head": 0.5})
    study.tell(trial, 0.5)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["state"] for line in lines if line["op_code"] == records.SET_TRIAL_STATE] == [OptunaState.COMPLETE]
    assert [line["user_attr"] for line in lines if "user_attr" in line] == [{records.RECIPE: {"lr_head": 0.5}}]


# Optuna's samplers


def one_number(trial: Any) -> dict[str, Any]:
    return {"share": trial.suggest_float("share", 0.0, 1.0)}


def asked_by_optuna(
    study: optuna.Study, sampler: optuna.samplers.BaseSampler, ask: Ask
) -> tuple[dict[str, Any], FrozenTrial]:
    """What Optuna's own trial draws, and the trial as the study then has it."""
    study.sampler = sampler
    trial = study.ask()
    return ask(trial), study.trials[trial.number]


@pytest.mark.parametrize(
    ("kind", "ask", "n"),
    [
        (TPE, numbers, 3),
        (TPE, numbers, 14),
        (TPE, conditional, 14),
        (RANDOM, conditional, 14),
        (GP, numbers, 3),
        (GP, numbers, 12),
        (CMAES, numbers, 12),
    ],
)
def test_a_draft_draws_exactly_what_optunas_trial_would(kind: str, ask: Ask, n: int) -> None:
    """Leans: samplers.Proposal, which does what optuna.Trial._suggest does, without its hooks before_trial and
    after_trial.

    If it fails: read Trial._suggest, .relative_params and .__init__ again, and mend Proposal._suggest and ._draw.
    """
    wanted, theirs = asked_by_optuna(study_of(ask, n, running=1), samplers.create(kind, 5, n + 1), ask)
    study = study_of(ask, n, running=1)
    drafted = draft(study, samplers.create(kind, 5, n + 1))
    assert ask(drafted) == wanted
    drafted.write()
    ours = study.trials[n + 1]
    assert list(ours.params.items()) == list(theirs.params.items())
    assert ours.distributions == theirs.distributions
    assert set(ours.system_attrs) == set(theirs.system_attrs)


@pytest.mark.parametrize("kind", [TPE, RANDOM, GP, CMAES])
def test_a_sampler_needs_no_word_before_a_trial_or_after(kind: str) -> None:
    """Leans: samplers.Proposal calls no before_trial; Study.tell calls after_trial of a RandomSampler, not of the one
    that has suggested.

    If it fails: call them in Proposal.__init__ and in StudySearch._end.
    """
    study = study_of(numbers, 12, running=1)
    sampler, trial = samplers.create(kind, 0, 13), study.trials[12]
    before = study.trials[12].system_attrs
    sampler.before_trial(study, trial)
    sampler.after_trial(study, trial, OptunaState.COMPLETE, [0.5])
    assert study.trials[12].system_attrs == before
    if kind in (TPE, RANDOM):  # and it draws what one draws that was not called
        other = samplers.create(kind, 0, 13)
        assert numbers(draft(study, sampler)) == numbers(draft(study_of(numbers, 12, running=1), other))


def test_a_new_sampler_of_the_same_seed_draws_its_first_suggestion_again() -> None:
    """Leans: samplers.create: a sampler a trial, seeded by (seed, number, attempt). One a driver would repeat itself
    after a resume.

    If it fails because the sampler's state can be had and kept: one a study would do.
    """
    study = optuna.create_study()
    first, _ = asked_by_optuna(study, optuna.samplers.TPESampler(seed=5), numbers)
    unbroken, _ = asked_by_optuna(study, study.sampler, numbers)
    again, _ = asked_by_optuna(study, optuna.samplers.TPESampler(seed=5), numbers)
    assert again == first != unbroken


@pytest.mark.parametrize(("kind", "n"), [(TPE, 14), (GP, 12), (CMAES, 12)])
def test_samplers_read_trials_through_the_studys_own_method(kind: str, n: int) -> None:
    """Leans: samplers.StudyView, which overrides Study._get_trials to leave out trials that drew nothing.

    If it fails: find what they read by now, and leave those trials out there.
    """
    hidden, absent = study_of(numbers, n), study_of(numbers, n)
    hidden.add_trial(create_trial(value=99.0))
    absent.add_trial(create_trial(state=OptunaState.FAIL))  # which no sampler looks at; the numbers stay equal
    assert numbers(draft(hidden, samplers.create(kind, 0, n + 1))) == numbers(
        draft(absent, samplers.create(kind, 0, n + 1))
    )


@pytest.mark.parametrize("kind", [GP, CMAES])
def test_one_complete_trial_without_parameters_leaves_nothing_to_model(kind: str) -> None:
    """Leans: samplers.StudyView hides such a trial: these samplers would suggest at random for ever.

    If it fails because they go on without it: StudyView is needed no more.
    """
    study = study_of(numbers, 12)
    study.add_trial(create_trial(value=0.5))
    sampler = samplers.create(kind, 0, 13)
    assert sampler.infer_relative_search_space(study, study.trials[-1]) == {}
    assert set(samplers.create(kind, 0, 13).infer_relative_search_space(seen(study), study.trials[-1])) == {
        "share",
        "rate",
        "layers",
    }


@pytest.mark.parametrize(("kind", "modelled"), [(GP, {"head", "share"}), (CMAES, {"share"})])
def test_what_hangs_on_others_is_drawn_at_random_without_a_word(kind: str, modelled: set[str]) -> None:
    """Leans: samplers.check_serves, which refuses such spaces for gp and cmaes, and choices for cmaes.

    If it fails because they are modelled: allow them. If it raises or warns: nothing to do.
    """
    study = study_of(conditional, 12)
    sampler = samplers.create(kind, 0, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(sampler.infer_relative_search_space(study, study.trials[-1])) == modelled
        assert conditional(draft(study, samplers.create(RANDOM, 0, 12)))


def test_cmaes_draws_a_single_number_too() -> None:
    """Leans: samplers.check_serves, which need not refuse such a space (cmaes before 0.12 raised).

    If it fails: refuse it there with a word.
    """
    study = study_of(one_number, 6)
    sampler, asked = samplers.create(CMAES, 0, 6), study.ask()
    space = sampler.infer_relative_search_space(study, study.trials[6])
    assert set(sampler.sample_relative(study, study.trials[asked.number], space)) == {"share"}


@pytest.mark.parametrize(("kind", "key"), [(TPE, "tpe:relative_params:0"), (GP, "gp:relative_params:0")])
def test_a_suggestion_leaves_a_note_of_that_name_in_its_trial(kind: str, key: str) -> None:
    """Leans: samplers.Proposal.write, which replaces the note: others learn from it what a trial that runs tries, and
    TPE keeps away.

    If it fails: find the note's new name, or drop that part of write.
    """
    study = study_of(numbers, 12)
    numbers(draft(study, samplers.create(kind, 0, 12)))
    trial = study.trials[12]
    assert set(trial.system_attrs) == {key}
    assert set(json.loads(trial.system_attrs[key])) == {"share", "rate", "layers"}


def near(share: float, study: optuna.Study) -> float:
    """How many of 30 suggestions of TPE's fall within 0.05 of it."""
    trial_id = id_of(study.ask())
    drawn = [
        one_number(samplers.Proposal(seen(study), trial_id, samplers.create(TPE, 0, 99, attempt)))["share"]
        for attempt in range(30)
    ]
    return sum(abs(suggested - share) < 0.05 for suggested in drawn) / len(drawn)


def trials(
    state: OptunaState, shares: Any, *, reported: float | None = None, infeasible: bool = False
) -> list[FrozenTrial]:
    """A trial in each of these places."""
    return [
        create_trial(
            state=state,
            params={"share": float(share)},
            distributions={"share": FloatDistribution(0.0, 1.0)},
            intermediate_values={} if reported is None else {1: reported},
            system_attrs={"constraints:diverged": 1.0} if infeasible else {},
        )
        for share in shares
    ]


BEST = np.linspace(0.68, 0.72, 8)


def test_tpe_takes_failed_trials_for_nothing_and_keeps_away_from_those_that_run() -> None:
    """Leans: StudySearch takes up every trial that runs in the journal before it asks for a new one: nobody else would
    end it. It tells FAIL only for errors in code, and for repeats that were withdrawn.

    If it fails: see what TPE makes of each state (`constant_liar`), and tell accordingly.
    """
    complete, failed, running = (study_of(one_number, 60) for _ in range(3))
    failed.add_trials(trials(OptunaState.FAIL, BEST))
    running.add_trials(trials(OptunaState.RUNNING, BEST))
    assert near(0.7, complete) == 1.0, "where the best of 60 trials lie"
    assert near(0.7, failed) == 1.0
    assert near(0.7, running) < 0.2


@pytest.mark.parametrize("infeasible", [False, True])
def test_tpe_goes_where_pruned_trials_were_good_unless_a_constraint_forbids_it(infeasible: bool) -> None:
    """Leans: StudySearch._end: what diverged or ran out of memory is pruned and infeasible, whatever its early epochs
    were worth.

    If it fails: TPE comes back to where trials diverge; tell them a bad value instead.
    """
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials(OptunaState.PRUNED, np.linspace(0.0, 1.0, 60), reported=0.1))
    study.add_trials(trials(OptunaState.PRUNED, BEST, reported=0.9, infeasible=infeasible))
    assert (near(0.7, study) < 0.2) if infeasible else (near(0.7, study) > 0.8)


def test_tpe_ranks_every_complete_trial_above_every_pruned_one() -> None:
    """Leans: StudySearch tells COMPLETE only for a recipe's last epoch; a high early value draws nobody where enough
    are complete.

    If it fails: a stopped trial's value passes for a full one.
    """
    study = study_of(one_number, 60)
    study.add_trials(trials(OptunaState.PRUNED, np.linspace(0.18, 0.22, 8), reported=2.0))
    assert near(0.2, study) == 0.0


def test_a_suggestion_outside_of_a_narrower_range_is_drawn_again_on_its_own() -> None:
    """Leans: samplers.Proposal._draw, which checks a joint suggestion by the distribution's bounds or choices, as
    Optuna's own trial does.

    If it fails: read optuna.Trial._suggest, and check as it does.
    """

    class Joint(optuna.samplers.RandomSampler):  # type: ignore[misc]
        def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
            return {
                "share": FloatDistribution(0.0, 2.0),
                "head": CategoricalDistribution(("a", "b")),
                "layers": IntDistribution(1, 9),
                "kept": FloatDistribution(0.0, 1.0),
            }

        def sample_relative(self, study: optuna.Study, trial: FrozenTrial, space: Any) -> dict[str, Any]:
            return {"share": 1.5, "head": "b", "layers": 9, "kept": 0.5}

    def ask(trial: Any) -> dict[str, Any]:
        return {
            "share": trial.suggest_float("share", 0.0, 1.0),
            "head": trial.suggest_categorical("head", ("a", "b")),
            "layers": trial.suggest_int("layers", 1, 8),
            "kept": trial.suggest_float("kept", 0.0, 1.0),
        }

    theirs, _ = asked_by_optuna(study_of(numbers, 2), Joint(seed=0), ask)
    ours = ask(draft(study_of(numbers, 2), Joint(seed=0)))
    assert ours == theirs
    assert (ours["head"], ours["kept"]) == ("b", 0.5)
    assert ours["share"] <= 1.0
    assert ours["layers"] <= 8


def test_distributions_of_one_value_are_single() -> None:
    """Leans: samplers.Proposal._suggest, which draws nothing for those.

    If it fails: compare the bounds, or count the choices.
    """
    assert CategoricalDistribution(("only",)).single()
    assert IntDistribution(3, 3).single()


def test_importances_are_of_the_parameters_that_were_named() -> None:
    """Leans: tune.report.importance (PED-ANOVA over complete trials, `params`).

    If it fails: leave that part of the report out, or compute it from another evaluator.
    """
    study = study_of(numbers, 40)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=["share", "rate"])
    assert set(shares) == {"share", "rate"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["share"] > shares["rate"], "the score depends on it alone"
    assert all(trial.value == pytest.approx(score(trial.params)) for trial in study.trials)
