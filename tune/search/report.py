"""The search as one page to look at: `runs/<name>/report.html`, which needs no other file and asks nothing of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState as OptunaState

from maskcls.files import write_atomically
from maskcls.labels import CLASS_NAMES
from maskcls.reports.page import Html, bar, dot, page, pairs, section, table, tiles
from maskcls.reports.plots import INK
from tune.fitting.curve import read_curve
from tune.runs import leaderboard
from tune.runs.durations import duration
from tune.runs.folder import SearchRun
from tune.runs.study import Record, is_own, open_study, records
from tune.search import report_choice, report_plots
from tune.selection.choice import CHOICE
from tune.selection.holdout import HOLDOUT

Curves = Mapping[str, Sequence[Mapping[str, Any]]]

MIN_COMPLETE = 10
"""Complete trials below which importances would be noise."""
MAX_ROWS = 200


def write_report(run: SearchRun) -> None:
    """Write the run's report.html from its study and its trials' curves, whole or not at all. May be called while the search runs."""
    trials = records(run)
    curves = {trial.trial_id: read_curve(run.trial(trial.trial_id)) for trial in trials}
    search = run.search()
    choice = search.get(CHOICE) or {}
    best = _best(trials, choice)
    sections = [_headline(trials, curves, best, search), *report_choice.sections(search)]
    if best is not None:
        sections += [
            section("How the search went", "", report_plots.progress(trials)),
            section("Learning curves", "", report_plots.learning_curves(trials, curves, best.trial_id, _word(choice))),
            *_parameters(run, trials),
            *_scores(best, curves, _word(choice)),
        ]
    sections += [_leaderboard(trials, best), *_best_recipe(best, _word(choice)), _origin(search)]
    write_atomically(run.report, page(f"Search {run.name}", _question(search), sections))


def gain(trials: Sequence[Record]) -> float | None:
    """Best validation macro F1 less that of the preset's recipe; None where either is missing."""
    best, preset = leaderboard.best(trials), leaderboard.preset(trials)
    if best is None or best.f1 is None or preset is None or preset.f1 is None:
        return None
    return best.f1 - preset.f1


def _best(trials: Sequence[Record], choice: Mapping[str, Any]) -> Record | None:
    """The trial whose bundle is in best/: the repeats' winner; where none were run, the best by validation."""
    chosen = next((trial for trial in trials if trial.trial_id == choice.get("winner")), None)
    return chosen or leaderboard.best(trials)


def _word(choice: Mapping[str, Any]) -> str:
    return "winner" if choice.get("winner") else "best trial"


def _question(search: Mapping[str, Any]) -> str:
    space = search.get("space", {})
    return f"Space {space['name']}: {space['question']}" if space else ""


def _headline(trials: Sequence[Record], curves: Curves, best: Record | None, search: Mapping[str, Any]) -> Html:
    states = Counter(trial.state for trial in trials)
    seconds = sum(trial.seconds or _last(curves[trial.trial_id], "seconds") for trial in trials)
    over = gain(trials)
    effort = [
        ("trials", str(len(trials)), ", ".join(f"{n} {state}" for state, n in states.most_common())),
        ("time spent in trials", duration(seconds), f"{sum(trial.epochs for trial in trials)} epochs"),
    ]
    gained = ("gain over the preset's recipe", "–" if over is None else f"{over:+.4f}", _preset_f1(trials))
    if best is not None and (search.get(CHOICE) or {}).get("winner"):
        return tiles([*report_choice.figures(search, _place(best)), *effort], report_choice.caution(search, gained))
    shown = [
        ("best validation macro F1", "–" if best is None else f"{best.f1:.4f}", "" if best is None else _place(best)),
        gained,
        *effort,
    ]
    caution = (
        "No trial has finished an epoch yet."
        if best is None
        else "The best of many validation scores is too good by its nature: expect somewhat less on people whom no trial saw."
    )
    return tiles(shown, caution)


def _place(best: Record) -> str:
    return f"trial {best.trial_id}, {best.recipe.get('backbone', '')}, epoch {best.best_epoch} of {best.recipe.get('epochs', '?')}"


def _preset_f1(trials: Sequence[Record]) -> str:
    preset = leaderboard.preset(trials)
    if preset is None:
        return "the preset was not tried"
    return f"trial {preset.trial_id}: " + ("no score" if preset.f1 is None else f"{preset.f1:.4f}")


def _parameters(run: SearchRun, trials: Sequence[Record]) -> list[Html]:
    frozen = [trial for trial in open_study(run).get_trials(deepcopy=False) if is_own(trial)]
    distributions: dict[str, BaseDistribution] = {}
    for trial in frozen:
        distributions |= {name: drawn for name, drawn in trial.distributions.items() if name not in distributions}
    if not distributions:
        return []
    found, note = importance(frozen)
    sections = [section("What mattered", note, report_plots.importances(found) if found else Html())]
    told = (
        "Each point is a trial at its best epoch. A parameter that hangs on another has points only where it was drawn."
    )
    return [*sections, section("Values and scores", told, report_plots.slices(trials, distributions))]


def importance(trials: Sequence[optuna.trial.FrozenTrial]) -> tuple[dict[str, float], str]:
    """Each parameter's share of the importance by PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023), and what to know about it.

    Only complete trials that drew parameters count (the preset's recipe need not lie in the space), and only parameters that all of
    them drew; empty where there are fewer than MIN_COMPLETE.
    """
    complete = [trial for trial in trials if trial.state == OptunaState.COMPLETE and trial.params]
    common = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
    varied = [name for name in sorted(common) if len({str(trial.params[name]) for trial in complete}) > 1]
    if len(complete) < MIN_COMPLETE or not varied:
        return (
            {},
            f"Importances need {MIN_COMPLETE} complete trials of the space in which a parameter varied; this search has {len(complete)}.",
        )
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    note = f"PED-ANOVA over {len(complete)} complete trials: what sets the best quarter apart. Only parameters that all of them drew."
    return shares, note


def _scores(best: Record, curves: Curves, word: str) -> list[Html]:
    """F1 a task and a class of the best trial's best epoch."""
    row = next((row for row in curves[best.trial_id] if row["epoch"] == best.best_epoch), {})
    scores = row.get("scores")
    if not scores:
        return []
    tasks = [[name, bar(f1), f"{f1:.3f}"] for name, f1 in scores["task_f1"].items()]
    classes = [
        [str(number), name, "", "nobody in validation"] if f1 is None else [str(number), name, bar(f1), f"{f1:.3f}"]
        for number, (name, f1) in enumerate(zip(CLASS_NAMES, scores["class_f1"], strict=True))
    ]
    told = f"Trial {best.trial_id}, epoch {best.best_epoch}: {scores['n']} validation photos, accuracy {scores['accuracy']:.1%}."
    content = table(["task", "", "F1"], tasks) + table(["class", "name", "", "F1"], classes)
    return [section(f"F1 of the {word}, by task and class", told, content)]


def _leaderboard(trials: Sequence[Record], best: Record | None) -> Html:
    rows = leaderboard.ranked(trials)
    cells = [_row(place, trial) for place, trial in enumerate(rows[:MAX_ROWS], start=1)]
    more = f" The first {MAX_ROWS} of {len(rows)}; all stand in leaderboard.csv." if len(rows) > MAX_ROWS else ""
    headers = ["", "trial", "F1", "epoch", "state", "from", "time", "recipe's overrides"]
    marked = next((number for number, trial in enumerate(rows[:MAX_ROWS]) if trial is best), None)
    return section("Leaderboard", f"By the best validation macro F1 of any epoch.{more}", table(headers, cells, marked))


def _row(place: int, trial: Record) -> list[str | Html]:
    colour = report_plots.STATE_COLOURS.get(trial.state, INK)
    values = trial.overrides or trial.params
    told = ", ".join(f"{key} {_value(value)}" for key, value in values.items()) or "the preset's own recipe"
    if trial.message:
        told += f" – {trial.message}"
    return [
        str(place) if trial.f1 is not None else "",
        trial.trial_id,
        "–" if trial.f1 is None else f"{trial.f1:.4f}",
        f"{trial.best_epoch} / {trial.epochs}",
        dot(colour) + trial.state,
        trial.origin,
        duration(trial.seconds),
        told,
    ]


def _best_recipe(best: Record | None, word: str) -> list[Html]:
    if best is None:
        return []
    changed = {key: value for key, value in best.recipe.items() if key in best.overrides}
    rest = {key: value for key, value in best.recipe.items() if key not in best.overrides}
    content = pairs(changed, "chosen by the search") + pairs(rest, "from the preset, the scale and the call")
    named = "The winner's recipe" if word == "winner" else "The best recipe"
    return [section(f"{named}, trial {best.trial_id}", "", content)]


def _origin(search: Mapping[str, Any]) -> Html:
    told = "What the run says of itself, in search.json."
    kept = {key: value for key, value in search.items() if key not in (CHOICE, HOLDOUT)}  # which stand above
    return section("Where this comes from", told, pairs(flattened(kept), "search.json"))


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots; mappings in a list are numbered from 1."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _last(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(rows[-1].get(key, 0.0)) if rows else 0.0


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
