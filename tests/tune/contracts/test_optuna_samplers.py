"""What the search takes for granted of Optuna's samplers, a test a fact.

As in test_optuna.py. Checked with optuna 5.0, cmaes 0.13.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from tests.tune.studies import Ask, conditional, draft, numbers, score, seen, study_of
from tune.runs.optuna_private import id_of
from tune.search import samplers
from tune.search.plan import CMAES, GP, RANDOM, TPE


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
