"""What the dashboard's pages say of a run and of its trials beside Optuna's own columns."""

from __future__ import annotations

import math
from typing import Any

from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.selection.record import ChoiceRecord, FinalistScores
from tune.states import TrialState

NOTHING = "–"
Attributes = dict[str, Any]
"""By name, texts and numbers: the dashboard sorts a column of numbers."""


def of_run(run: SearchRun, choice: ChoiceRecord | None) -> Attributes:
    """Describe the run: its question, its photos, the winner and its scores, the files to look at."""
    record = run.record()
    shown: Attributes = {"run": str(run.path)}
    if record.space is not None:
        shown |= {"space": record.space.name, "question": record.space.question}
    if record.data.photos:
        shown["data"] = f"{record.data.photos:,} photos of {record.data.people:,} people"
    if choice is not None and choice.winner is not None:
        shown |= {"winner": f"trial {choice.winner.trial}", **_scores(choice.winner), **_holdout(choice)}
        if choice.gain_text:
            shown["gain over the preset"] = choice.gain_text
    if run.report.exists():
        shown["report"] = str(run.report)
    return shown


def of_trial(trial: FrozenTrial, choice: ChoiceRecord | None) -> Attributes:
    """Describe a trial: where it came from, how it stands, and of a finalist its repeats."""
    if not records.is_own(trial):
        source = trial.user_attrs.get(records.IMPORTED, "")
        return {"state": "of another run" if source else "not run: it was suggested before", "source": str(source)}
    one = records.record(trial)
    state = {OptunaState.RUNNING: TrialState.RUNNING, OptunaState.WAITING: "waiting"}.get(trial.state, one.state)
    shown: Attributes = {"state": str(state), "message": one.message, "origin": one.origin}
    if one.f1 is not None:
        shown |= {"best_f1": round(one.f1, 6), "best_epoch": one.best_epoch, "epochs": one.epochs}
    if one.seconds:
        shown["seconds"] = round(one.seconds, 1)
    if one.recipe:
        shown["backbone"] = str(one.recipe.get("backbone", ""))
        shown["task_split"] = str(one.recipe.get("task_split", ""))
    return _chosen(one.trial_id, choice) | shown  # what came of it first: the page shows a few lines at a time


def _chosen(trial_id: str, choice: ChoiceRecord | None) -> Attributes:
    """What came of a trial in the choice; nothing of one that took no part."""
    if choice is None:
        return {}
    scores = next((one for one in choice.finalists if one.trial == trial_id), None)
    if scores is None:
        is_preset = choice.preset is not None and choice.preset.trial == trial_id
        return {"role": "preset", **_scores(choice.preset)} if is_preset and choice.preset else {}
    if trial_id != choice.winner_id:
        return {"role": "finalist", **_scores(scores)}
    return {"role": "winner", **_scores(scores), **_holdout(choice)}


def _scores(scores: FinalistScores) -> Attributes:
    shown: Attributes = {"repeats": len(scores.repeats)}
    for name, value in (("repeats_mean", scores.mean), ("repeats_sd", scores.spread)):
        if not math.isnan(value):
            shown[name] = round(value, 6)
    return shown | ({"repeats_interval": scores.interval} if scores.interval else {})


def _holdout(choice: ChoiceRecord) -> Attributes:
    """The winner's score on the holdout, where it has one."""
    if choice.holdout is None or choice.optimism is None:
        return {}
    return {
        "holdout_f1": round(choice.holdout.f1, 6),
        "holdout_interval": f"{choice.holdout.interval}, {choice.holdout.people_text}",
        "optimism": round(choice.optimism, 6),
    }


def recipe_table(trial: FrozenTrial) -> str:
    """Return the trial's recipe as a table in Markdown; values that the search changed are bold."""
    recipe: dict[str, Any] = trial.user_attrs.get(records.RECIPE, {})
    if not recipe:
        return ""
    changed = trial.user_attrs.get(records.OVERRIDES, {})
    rows = [f"| {key} | {_bold(_text(value), key in changed)} |" for key, value in recipe.items()]
    return "\n".join(["| recipe | value |", "|---|---|", *rows])


def _text(value: object) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|") or NOTHING


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold and text else text
