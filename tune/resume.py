"""Beginning, resuming and extending a search are one thing: a driver over the run's journal.

What a killed driver left is there: trials that ended stay ended, trials that ran are taken up as they are (StudySearch), trials that
were enqueued and never asked still wait, and the scheduler gets its rungs back (`EpochASHA.give_back`). Tuner.restore is not used:
it forgets the rungs, cannot change the number of trials, and crashes where Optuna knows more than Ray's last snapshot.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from maskcls.errors import CallError
from maskcls.recipe import Recipe
from search_spaces import Setting, Space
from tune.plan import SearchPlan
from tune.study import ENDED, ORIGIN, POINT, PRESET


def begin(study: optuna.Study, plan: SearchPlan) -> None:
    """Enqueue the preset's recipe as trial 0, then the space's points. Those that a driver enqueued before it was killed are left alone."""
    there = {trial.user_attrs.get(ORIGIN) for trial in study.get_trials(deepcopy=False)}
    for origin, params in firsts(plan).items():
        if origin not in there:
            study.enqueue_trial(params, user_attrs={ORIGIN: origin})


def firsts(plan: SearchPlan) -> dict[str, dict[str, Any]]:
    """Parameters by origin: the preset's, then the space's points but for one that is the preset again."""
    preset = preset_params(plan.space, plan.setting, plan.base)
    points = enumerate(plan.space.points(plan.setting), start=1)
    return {PRESET: preset, **{f"{POINT} {n}": point for n, point in points if point != preset}}


def n_left(study: optuna.Study, trials: int) -> int:
    """How many of the wanted trials have not ended."""
    return trials - len(study.get_trials(deepcopy=False, states=ENDED))


class _OutsideError(Exception):
    """The recipe has no value for a parameter, or one outside its domain."""


def preset_params(space: Space, setting: Setting, recipe: Recipe) -> dict[str, Any]:
    """The recipe as a point of the space, for the sampler to learn from; {} where it is none.

    All parameters or none: a trial with some of them would make TPE's grouping model the others apart from these.
    """
    answers = _Answers(recipe.flat())
    try:
        space.suggest(answers, setting)
    except _OutsideError:
        return {}
    return answers.params


class _Answers:
    """A Suggest that answers from a recipe, and raises where it can't."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.params: dict[str, Any] = {}
        self._values = values

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, self._values.get(name) in choices)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._answer(name, low <= self._values.get(name, float("nan")) <= high))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self._answer(name, low <= self._values.get(name, float("nan")) <= high))

    def _answer(self, name: str, inside: bool) -> Any:
        if not inside:
            raise _OutsideError(name)
        self.params[name] = self._values[name]
        return self.params[name]


def refuse_contradictions(recorded: Mapping[str, Any], given: Mapping[str, Any], run_name: str) -> None:
    """Raises CallError naming every option of a resume that says something else than the run's own call.

    Args:
        recorded: the run's call, option by option.
        given: options that this call states and that a run can't change.
    """
    wrong = [
        f"--{name.replace('_', '-')} is {_shown(recorded.get(name))} in the run, but {_shown(value)} was given"
        for name, value in given.items()
        if recorded.get(name) != value
    ]
    if wrong:
        raise CallError(
            f"--resume {run_name} goes on with the run's own settings: {'; '.join(wrong)}. Leave these options out, or start a new run."
        )


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "not set"
    return ", ".join(value) if isinstance(value, list) else str(value)
