"""Suggestions: the same from the same seed, number and attempt, never from a space that the sampler can't draw from,
and kept apart until they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

import search_spaces
from maskcls.errors import CallError
from search_spaces import Space
from tests.tune.searches import SETTING
from tests.tune.studies import Ask, conditional, draft, numbers, seen, study_of
from tune.runs.optuna_private import id_of
from tune.search import samplers
from tune.search.plan import CMAES, GP, GRID, RANDOM, SAMPLERS, TPE

DRAWN = (TPE, RANDOM, GP, CMAES)
ROOT = Path(__file__).parents[3]


def suggested(kind: str, ask: Ask, *, n: int, seed: int = 0, attempt: int = 0) -> dict[str, Any]:
    """What a new trial of a study of n others would be."""
    study = study_of(ask, n)
    return ask(draft(study, samplers.create(kind, seed, n, attempt)))


def test_every_sampler_is_drawn_from_here_but_for_the_grid() -> None:
    assert set(SAMPLERS) == {*DRAWN, GRID}


@pytest.mark.parametrize("kind", [GRID, "sobol"])
def test_a_sampler_that_is_not_drawn_from_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"There is no sampler '{kind}' that draws"):
        samplers.create(kind, 0, 0)


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("n", [3, 12])
def test_the_same_seed_number_and_attempt_draw_the_same(kind: str, n: int) -> None:
    """Three trials: at random, still. Twelve: from a model."""
    first = suggested(kind, numbers, n=n)
    assert suggested(kind, numbers, n=n) == first
    drawn = [first, suggested(kind, numbers, n=n, attempt=1), suggested(kind, numbers, n=n, seed=1)]
    assert len({json.dumps(params) for params in drawn}) == len(drawn), (
        "another attempt, another seed: another suggestion"
    )


def test_another_trial_draws_otherwise_from_the_same_study() -> None:
    study = study_of(numbers, 3)
    drawn = [numbers(draft(study, samplers.create(RANDOM, 0, number))) for number in (3, 4, 5)]
    assert len({params["share"] for params in drawn}) == 3


@pytest.mark.slow
def test_a_fresh_process_draws_the_same() -> None:
    """Whatever Python's hashes are there."""
    paths = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    program = (
        paths
        + "import json; from tests.tune.search.test_samplers import *; "
        + "print(json.dumps(suggested(TPE, conditional, n=14)))"
    )
    for hash_seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
        )
        assert json.loads(said.stdout.splitlines()[-1]) == suggested(TPE, conditional, n=14)


def space(ask: Ask) -> Space:
    return Space("made", "Which?", lambda trial, setting: ask(trial))


def choice(trial: Any) -> dict[str, Any]:
    return {**numbers(trial), "loss": trial.suggest_categorical("loss", ("focal", "cross_entropy"))}


@pytest.mark.parametrize(
    ("kind", "ask", "message"),
    [
        (TPE, conditional, None),
        (RANDOM, conditional, None),
        (GP, numbers, None),
        (CMAES, numbers, None),
        (GP, choice, None),
        (GRID, numbers, None),
        (GRID, conditional, None),
        (
            GP,
            conditional,
            r"--sampler gp cannot serve space made: it wants the same parameters in every trial, and some depend on "
            r"others: (\w+, ){2}\w+\. "
            r"Use --sampler tpe or random, or fix what they depend on with --set\.",
        ),
        (CMAES, conditional, r"--sampler cmaes cannot serve space made: it wants the same parameters .*: .*width"),
        (
            CMAES,
            choice,
            r"--sampler cmaes cannot serve space made: it draws numbers alone, .* without an order: loss\. "
            r"Use --sampler tpe, gp or random",
        ),
        (
            GRID,
            lambda trial: {"n": trial.suggest_int("n", 1, 50_000)},
            r"the grid of space made has more than 20,000 points",
        ),
    ],
)
def test_a_sampler_that_cannot_serve_a_space_says_which_parameters_and_what_to_do(
    kind: str, ask: Ask, message: str | None
) -> None:
    if message is None:
        samplers.check_serves(kind, space(ask), SETTING)
        return
    with pytest.raises(CallError, match=message):
        samplers.check_serves(kind, space(ask), SETTING)


def test_a_message_names_six_parameters_and_counts_the_others() -> None:
    def many(trial: Any) -> dict[str, Any]:
        if trial.suggest_categorical("more", (False, True)):
            for at in range(9):
                trial.suggest_float(f"p{at}", 0.0, 1.0)
        return {}

    with pytest.raises(CallError, match=r"some depend on others: p0, p1, p2, p3, p4, p5 and 3 more\."):
        samplers.check_serves(GP, space(many), SETTING)


@pytest.mark.parametrize("name", search_spaces.NAMES)
def test_what_serves_a_space_that_comes_with_the_package_is_known(name: str) -> None:
    """TPE and random serve all of them; the others say what stands in their way."""
    its = search_spaces.get(name)
    for kind in (TPE, RANDOM):
        samplers.check_serves(kind, its, SETTING)
    for kind in (GP, CMAES):
        with pytest.raises(CallError, match=f"--sampler {kind} cannot serve space {name}: "):
            samplers.check_serves(kind, its, SETTING)


@pytest.mark.parametrize("kind", DRAWN)
def test_a_draft_keeps_to_itself_what_it_drew_until_it_is_written(kind: str) -> None:
    study = study_of(numbers, 12, running=1)
    drafted = draft(study, samplers.create(kind, 0, 13))
    params = numbers(drafted)
    assert numbers(drafted) == params, "what is asked again is answered as before"
    assert not drafted.fixed
    assert study.trials[13].params == {}
    drafted.write()
    trial = study.trials[13]
    assert trial.state == OptunaState.RUNNING
    assert trial.params == params
    assert trial.distributions == {
        "share": FloatDistribution(0.0, 1.0),
        "rate": FloatDistribution(1e-5, 1e-1, log=True),
        "layers": IntDistribution(1, 8),
    }
    assert [type(value) for value in trial.params.values()] == [float, float, int]


def test_what_a_trial_was_enqueued_with_is_answered_and_the_rest_is_drawn() -> None:
    study = study_of(conditional, 3)
    study.enqueue_trial({"head": "mlp", "width": 7})
    drafted = draft(study, samplers.create(TPE, 0, 3))
    params = conditional(drafted)
    assert (params["head"], params["width"]) == ("mlp", 7)
    assert not drafted.fixed
    drafted.write()
    assert study.trials[3].params == params


def test_a_draft_is_fixed_where_nothing_was_drawn() -> None:
    """Another proposal would be equal: an enqueued point, a parameter of one value, one that the trial has."""
    study = study_of(conditional, 3)
    study.enqueue_trial({"head": "linear", "share": 0.25, "decay": 0.01})
    drafted = draft(study, samplers.create(TPE, 0, 3))

    def ask(trial: Any) -> dict[str, Any]:
        return {
            **conditional(trial),
            "size": trial.suggest_categorical("size", (64,)),
            "one": trial.suggest_int("one", 1, 1),
        }

    params = ask(drafted)
    assert params == {"head": "linear", "share": 0.25, "decay": 0.01, "size": 64, "one": 1}
    assert drafted.fixed
    drafted.write()
    again = samplers.Proposal(seen(study), id_of(study.trials[3]), samplers.create(RANDOM, 0, 4))
    assert ask(again) == params
    assert again.fixed
    again.write()  # a second time, nothing
    assert study.trials[3].params == params


def test_a_point_is_taken_instead_of_the_samplers_draw() -> None:
    study = study_of(conditional, 3)
    drafted = draft(study, samplers.create(RANDOM, 0, 3), {"head": "mlp", "share": 0.5, "width": 3, "dropout": 0.1})
    assert conditional(drafted) == {"head": "mlp", "share": 0.5, "width": 3, "dropout": 0.1}
    assert not drafted.fixed, "another point may follow"


@pytest.mark.parametrize(("kind", "ask"), [(TPE, conditional), (GP, numbers)])
def test_other_trials_know_of_the_proposal_that_was_written_not_of_one_before_it(kind: str, ask: Ask) -> None:
    """Other suggestions know a running trial's parameters from a note of the sampler's, which each proposal writes."""
    study = study_of(ask, 12, running=1)
    number = len(study.trials)
    trial_id = id_of(study.ask())
    drafts = [
        samplers.Proposal(seen(study), trial_id, samplers.create(kind, 0, number, attempt)) for attempt in range(3)
    ]
    params = [ask(drafted) for drafted in drafts]
    drafts[0].write()
    noted = {key: value for key, value in study.trials[number].system_attrs.items() if "relative_params" in key}
    assert [json.loads(value) for value in noted.values()] == [params[0]]


@pytest.mark.parametrize("kind", [TPE, GP])
def test_a_note_too_long_for_one_piece_is_replaced_whole(kind: str) -> None:
    """Optuna cuts a note into pieces of 2,045 characters; the rest of an old one would break the next suggestion."""

    def many(trial: Any) -> dict[str, Any]:
        return {
            name: trial.suggest_float(name, 0.0, 1.0)
            for name in ["share", *(f"a_parameter_of_a_long_name_{at}" for at in range(50))]
        }

    study = study_of(many, 11)
    drafted = draft(study, samplers.create(kind, 0, 11))
    many(drafted)
    drafted.write()
    pieces = {key: value for key, value in study.trials[11].system_attrs.items() if "relative_params" in key}
    assert len(pieces) > 1
    written = "".join(pieces[key] for key in sorted(pieces))
    assert json.loads(written) == study.trials[11].params
    assert many(draft(study, samplers.create(kind, 0, 12)))


def test_a_study_is_seen_without_trials_that_drew_nothing() -> None:
    study = study_of(numbers, 3, running=1)
    study.add_trial(create_trial(value=0.9))  # as a preset that is no point of the space
    study.enqueue_trial({"share": 0.5})
    sees = seen(study)
    assert [trial.number for trial in sees.get_trials()] == [0, 1, 2, 3, 5]
    assert [trial.number for trial in sees.get_trials(states=(OptunaState.COMPLETE,))] == [0, 1, 2]
    study.tell(3, 0.1)
    assert len(sees.get_trials(states=(OptunaState.COMPLETE,))) == 3, "looked at once for one suggestion"
    sees.refresh()
    assert [trial.number for trial in sees.get_trials(states=(OptunaState.COMPLETE,))] == [0, 1, 2, 3]


def test_what_a_reader_does_to_a_copy_stays_there() -> None:
    study = study_of(numbers, 2)
    seen(study).get_trials()[0].params["share"] = 99.0
    assert study.trials[0].params["share"] <= 1.0


@pytest.mark.parametrize("kind", [GP, CMAES])
def test_a_preset_that_is_no_point_of_the_space_does_not_make_suggestions_random(kind: str) -> None:
    study = study_of(numbers, 14)
    study.add_trial(create_trial(value=0.9))
    shares = [numbers(draft(study, samplers.create(kind, 0, 15, attempt)))["share"] for attempt in range(3)]
    at_random = [numbers(draft(study, samplers.create(RANDOM, 0, 15, attempt)))["share"] for attempt in range(3)]

    def off(drawn: list[float]) -> float:
        return sum(abs(share - 0.7) for share in drawn)

    assert off(shares) < off(at_random)


def test_a_choice_is_written_as_the_study_holds_it(tmp_path: Path) -> None:
    """On disk, and read again."""
    file = str(tmp_path / "journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    study = study_of(conditional, 2, storage=storage)
    drafted = draft(study, samplers.create(TPE, 0, 2))
    params = conditional(drafted)
    drafted.write()
    again = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    trial = optuna.load_study(study_name=study.study_name, storage=again).trials[2]
    assert trial.params == params
    assert list(trial.params) == list(params), "in the order of drawing"
    assert trial.distributions["head"] == CategoricalDistribution(("linear", "mlp"))


def test_of_many_trials_the_best_and_the_latest_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "MOST", 10)
    monkeypatch.setattr(samplers, "BEST", 3)
    study = study_of(numbers, 30, running=2)
    best = sorted(range(30), key=lambda number: -study.trials[number].value)[:3]
    expected = {*best, *[number for number in range(30) if number not in best][-7:], 30, 31}
    shown = [trial.number for trial in seen(study).get_trials()]
    assert shown == sorted(expected)
    assert len(seen(study_of(numbers, 10)).get_trials()) == 10
