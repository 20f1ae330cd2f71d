"""A finished search without a search: a real run folder, journal and curves, filled by a formula instead of fits."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState as OptunaState

import search_spaces
from maskcls.training.presets import preset
from search_spaces import Setting
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import HoldoutEvaluation, HoldoutScore, with_evaluations
from tune.runs.record import SearchRecord
from tune.runs.stopping import Outcome, Reason
from tune.selection.finalists import Design, Finalist, RepeatResult, pick_winner, top_trials
from tune.selection.record import ChoiceRecord
from tune.states import TrialState

EPOCHS = 6
SEARCH = {
    "call": {"space": "freezing", "preset": "fine-tune"},
    "space": {"name": "freezing", "question": "How many stages, & which head?"},
    "versions": {"torch": "2.14.1"},
    "split": {"seed": 0},
    "parts": [{"why": "complete"}],
}
OPTUNA_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.STOPPED_EARLY: OptunaState.PRUNED,
    TrialState.DIVERGED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


def made_run(folder: Path, n: int, *, name: str = "made", message: str = "") -> SearchRun:
    """A run of `n` trials: trial 0 the preset's, every fourth stopped early, the fifth diverged, the seventh failed
    with `message`."""
    run = SearchRun.create(folder, name, SearchRecord.model_validate(SEARCH))
    study = records.open_study(run)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    space, setting, base = search_spaces.get("freezing"), Setting("cpu"), preset("fine-tune", "cpu")
    for number in range(n):
        trial = study.ask()
        overrides = {} if number == 0 else space.suggest(trial, setting)
        state = {5: TrialState.DIVERGED, 7: TrialState.FAILED}.get(
            number, TrialState.STOPPED_EARLY if number % 4 == 3 else TrialState.COMPLETE
        )
        trial.set_user_attr(records.ORIGIN, records.PRESET if number == 0 else records.SAMPLED)
        trial.set_user_attr(records.OVERRIDES, overrides)
        trial.set_user_attr(records.RECIPE, base.override(overrides).model_dump())
        trial.set_user_attr(records.STATE, state)
        trial.set_user_attr(records.SECONDS, 61.0)
        trial.set_user_attr(records.MESSAGE, message if state == TrialState.FAILED else "")
        best = _write_curve(
            run,
            number,
            {TrialState.COMPLETE: EPOCHS, TrialState.STOPPED_EARLY: 2, TrialState.DIVERGED: 1, TrialState.FAILED: 0}[
                state
            ],
            overrides,
            trial,
        )
        (run.trial(records.trial_id(number)) / "recipe.json").write_text(json.dumps(trial.user_attrs[records.RECIPE]))
        study.tell(trial, best if state == TrialState.COMPLETE else None, state=OPTUNA_STATES[state])
    return run


def add_choice(run: SearchRun, design: Design, *, confirmed: bool = True, lacks: tuple[str, ...] = ()) -> str:
    """A choice among the run's best trials: repeats by a formula, below the search's scores, the best one's by most of
    all.

    Returns the winner's id.

    Args:
        confirmed: whether its bundle was looked at on the holdout.
        lacks: trials whose last repeat diverged.
    """
    generator = np.random.default_rng(7)
    finalists: list[Finalist] = []
    for trial in top_trials(records.records(run), design.finalists):
        f1s = (trial.f1 or 0.0) - (0.05 if finalists else 0.1) + generator.normal(0, 0.02, design.repeats)
        nothing = ((), np.zeros(0, np.int64), np.zeros((0, 18), np.float32), np.zeros(0, np.int64))
        repeats = tuple(RepeatResult(number, number + 1, 4, float(f1), *nothing) for number, f1 in enumerate(f1s))
        missing = (f"repeat {design.repeats}: diverged. The loss is nan.",) if trial.trial_id in lacks else ()
        finalists.append(
            Finalist(
                trial.trial_id,
                trial.f1 or 0.0,
                trial.best_epoch,
                trial.recipe,
                repeats[: len(repeats) - len(missing)],
                missing,
            )
        )
    best = pick_winner(finalists)
    assert best is not None
    record = ChoiceRecord.from_results(design, Outcome(Reason.FINISHED, 0), tuple(finalists), best)
    search = run.record()
    if confirmed:
        f1 = best.mean - 0.03
        score = (f"trial {best.trial_id}", "2030-01-01", f1, f1 - 0.06, f1 + 0.05, 69, 483, "0" * 12)
        record = replace(record, holdout=HoldoutScore(*score))
        search = with_evaluations(search, [HoldoutEvaluation(*score, scores={})])
    run.write_record(search.changed(choice=record.to_json()))
    return best.trial_id


def _write_curve(run: SearchRun, number: int, epochs: int, overrides: dict[str, Any], trial: Any) -> float:
    folder = run.trial(records.trial_id(number))
    folder.mkdir()
    noise = np.random.default_rng(number)
    top = (
        0.45
        + 0.05 * (5 - overrides.get("frozen_stages", 5))
        - 0.05 * abs(math.log10(overrides.get("lr_head", 1e-3)) + 3)
    )
    best, rows = 0.0, []
    for epoch in range(1, epochs + 1):
        f1 = float(top * (1 - math.exp(-epoch / 2)) + noise.normal(0, 0.01))
        best = max(best, f1)
        trial.report(best, epoch)
        scores = {
            "n": 485,
            "f1": f1,
            "accuracy": 0.75,
            "task_f1": {"mask3": 0.97, "gender2": 0.9, "age3": 0.61},
            "class_f1": [None if c == 17 else 0.3 + 0.04 * c for c in range(18)],
        }
        rows.append({"epoch": epoch, "validation_f1": f1, "best_f1": best, "seconds": 10.0 * epoch, "scores": scores})
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return best
