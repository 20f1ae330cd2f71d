"""Makes a run's journal again from what each trial left in its own folder: recipe, curve, and its leaderboard row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from maskcls.errors import DataError
from maskcls.files import parse_object, set_aside
from maskcls.text import counted, first
from tune.fitting.curve import read_curve
from tune.fitting.request import RECIPE, RECIPE_FILE
from tune.runs import journal as journals
from tune.runs import leaderboard, study
from tune.runs.folder import SearchRun
from tune.runs.record import JournalMark
from tune.states import FIDELITY, METRIC, TrialState

REPAIRED = "repaired"
"""Stands for the space of a study that was made again, so that a resume finds each recipe's point of its space."""
NAMED = 5


@dataclass(frozen=True)
class Repaired:
    """What a repair found and made."""

    damage: str
    """What was wrong, as a sentence."""
    ended: int
    """Trials that have ended, as they were."""
    unfinished: tuple[str, ...]
    """Trials that a resume takes up again, by id."""
    aside: Path | None
    """Where the damaged journal lies now; None if there was none, or nothing in it was damaged."""


def check_trials(run: SearchRun) -> None:
    """Raise DataError where a trial's folder is there and the journal does not know the trial."""
    unknown = _unknown(run)
    if unknown:
        raise DataError(
            f"{run.journal} has lost {counted(len(unknown), 'trial')} that {run.trials} holds "
            f"({first(unknown, NAMED)}). Restore it from a backup, or make it again: {run.repair_command}"
        )


def repair(run: SearchRun) -> Repaired | None:
    """Make the journal again if it is damaged; None if nothing is wrong with it. What was there is set aside.

    Every trial that has a folder keeps its number, recipe and curve. How it ended says the part of the journal that can
    still be read, otherwise its row of the leaderboard, otherwise its curve; a trial of which nothing says that it
    ended is unfinished. Parameters are not kept: the next resume places each recipe in its space.

    Raises RunError if a driver is at work, and DataError if search.json or a trial's own files cannot be read.
    """
    with run.held():
        record = run.record()
        damage = _damage(run, record.journal)
        if not damage:
            return None
        trials = list(_trials(run, record.base_recipe))
        aside = set_aside(run.journal) if run.journal.exists() else None
        run.write_record(record.changed(journal=None))  # its note was about the journal that is set aside
        made = study.open_study(run)
        made.set_user_attr(study.SPACE, REPAIRED)
        for trial in trials:
            made.add_trial(trial)
        leaderboard.write(run, study.begun(made))
        run.write_record(run.record())
    own = [study.record(trial) for trial in made.get_trials(deepcopy=False) if study.is_own(trial)]
    unfinished = tuple(one.trial_id for one in own if not one.state.ended)
    return Repaired(damage, len(own) - len(unfinished), unfinished, aside)


def _unknown(run: SearchRun) -> list[str]:
    """Return the ids of trials that have a recipe in their folder and are not in the journal."""
    known = {study.trial_id(trial.number) for trial in study.trials_of(run)}
    return [folder.name for folder in _folders(run) if folder.name not in known]


def _damage(run: SearchRun, noted: JournalMark | None) -> str:
    """Return what is wrong with the journal as a sentence; "" if nothing is."""
    found = journals.damage(run.journal, noted)
    if not found:
        try:
            lost = len(_unknown(run))
        except DataError:
            found = "is damaged: Optuna cannot read it"
        else:
            found = f"has lost {counted(lost, 'trial')}" if lost else ""
    return found and f"{run.journal.name} {found}."


def _folders(run: SearchRun) -> list[Path]:
    """Return the folders of trials that a worker has begun, by number."""
    return sorted((file.parent for file in run.trials.glob(f"[0-9]*/{RECIPE}")), key=lambda folder: int(folder.name))


def _trials(run: SearchRun, base: dict[str, Any]) -> Iterator[FrozenTrial]:
    """Yield Optuna's trials 0, 1, ... up to the last that has a folder; those without one are withdrawn."""
    remembered, rows = _remembered(run), leaderboard.read(run)
    number = 0
    for folder in _folders(run):
        for _ in range(number, int(folder.name)):
            yield create_trial(state=OptunaState.FAIL, user_attrs={study.DUPLICATE: True})
        yield _trial(folder, base, remembered.get(folder.name), rows.get(folder.name))
        number = int(folder.name) + 1


def _remembered(run: SearchRun) -> dict[str, study.Record]:
    """Return the trials that can still be read from the journal, up to its first damage."""
    with tempfile.TemporaryDirectory() as folder, suppress(Exception):
        # Whatever Optuna makes of a journal that is damaged: the trials' own files say the rest.
        copy = SearchRun.create(Path(folder), "copy")
        copy.journal.write_bytes(journals.sound_start(run.journal))
        return {one.trial_id: one for one in study.records(copy)}
    return {}


def _trial(folder: Path, base: dict[str, Any], known: study.Record | None, row: dict[str, str] | None) -> FrozenTrial:
    """Return the trial of a folder, from its own files and from what else is known of its end."""
    recipe = _recipe(folder)
    curve = read_curve(folder)
    values = {int(epoch[FIDELITY]): float(epoch[METRIC]) for epoch in curve}
    known = known if known is not None and known.recipe == recipe else None
    row = row if row is not None and int(row["epochs"] or 0) == max(values, default=0) else None
    if known is not None and known.state.ended:
        state, message, seconds = known.state, known.message, known.seconds
    elif row is not None and TrialState(row["state"]).ended:
        state, message, seconds = TrialState(row["state"]), row["message"], float(row["seconds"])
    else:
        is_whole = max(values, default=0) >= int(recipe["epochs"])
        state, message = TrialState.COMPLETE if is_whole else TrialState.UNFINISHED, ""
        seconds = float(curve[-1].get("seconds", 0.0)) if curve else 0.0
    if known is not None:
        origin, overrides = known.origin, known.overrides
    elif row is not None:
        origin, overrides = row["origin"], parse_object(row["overrides"])
    else:
        origin = study.SAMPLED if int(folder.name) else study.PRESET
        overrides = {key: value for key, value in recipe.items() if base.get(key, value) != value}
    return _frozen(
        state,
        values,
        {
            study.ORIGIN: origin,
            study.OVERRIDES: overrides,
            study.RECIPE: recipe,
            study.SECONDS: seconds,
            **({study.STATE: state.value, study.MESSAGE: message} if state.ended else {}),
        },
    )


def _frozen(state: TrialState, values: dict[int, float], attributes: dict[str, Any]) -> FrozenTrial:
    """Return a trial for the study. One without an end is running, as a killed driver leaves it."""
    optuna_state = OptunaState[state.optuna] if state.ended else OptunaState.RUNNING
    made = create_trial(
        state=optuna_state,
        value=values[max(values)] if optuna_state == OptunaState.COMPLETE else None,
        user_attrs=attributes,
        intermediate_values=values,
    )
    if state.infeasible:
        made.set_constraint(state.value, 1.0)
    return made


def _recipe(folder: Path) -> dict[str, Any]:
    file = folder / RECIPE
    with RECIPE_FILE.reading(file):
        recipe = RECIPE_FILE.read_object(file)
        int(recipe["epochs"])
    return recipe
