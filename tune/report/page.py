"""The page of a search, `runs/<name>/report.html`: one file that loads nothing else and needs no network."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import escape

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, Damaged, MaskclsError
from maskcls.files import write_atomically
from maskcls.labels import CLASS_NAMES
from maskcls.reports.page import Html, Section, bar, dot, folded, page, pairs, paragraph, section, table, tiles
from maskcls.reports.plots import INK, quiet_about_glyphs
from maskcls.serving.bundle import read_manifest
from maskcls.serving.calibration import Calibration
from maskcls.serving.decision import Decision
from maskcls.stores.cache_options import CacheOptions
from tune.durations import duration
from tune.fitting.curve import read_curve
from tune.report import choice as choice_part
from tune.report import how_good, mistakes, origin, parameters, plots
from tune.report.groups import check_columns
from tune.report.people import people_table, search_data
from tune.report.plots import NOTHING
from tune.report.predicted import read_sets
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import holdout_evaluations
from tune.runs.holdout_uses import holdout_note
from tune.runs.record import SearchRecord
from tune.runs.session import has_data
from tune.runs.study import Record, records
from tune.selection.finish import finish_request
from tune.selection.record import ChoiceRecord, read_choice

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""By trial: one row per epoch."""

log = logging.getLogger("maskcls")

MAX_ROWS = 200
"""Rows of the page's leaderboard; leaderboard.csv has all."""
UNFOLDED = 8
"""Values of a recipe that the leaderboard shows before it folds the others."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report may use, and what it shows beside what every report shows."""

    cache: CacheOptions = CacheOptions()  # noqa: RUF009 - frozen
    predicts: bool = False
    """Whether the winner may predict for people for whom no predictions are stored, which decodes photos."""
    with_photos: bool = False
    """Whether the page holds photos of mistakes, which are of people."""
    group_by: tuple[str, ...] = ()
    """Columns of the people's table by whose values scores are shown as well."""


def write_report(run: SearchRun, options: ReportOptions | None = None, out: Path | None = None) -> Path:
    """Write a search's page from the run's study, curves, predictions and search.json, whole or not at all.

    The search may still be running. Returns the page's file.

    Args:
        out: the file; None: report.html in the run.

    Raises CallError where a column to group by does not exist, or what is asked for needs what the run does not have.
    """
    options = options or ReportOptions()
    _check_can_show(run, options)
    begun = records(run)
    curves = {trial.trial_id: _curve(run.trial(trial.trial_id)) for trial in begun}
    trials = [_with_time(trial, curves[trial.trial_id]) for trial in begun]
    search = run.record()
    choice = read_choice(search)
    best = _best(trials, choice)
    model = model_of(run, best, choice, curves) if best else None
    title = "winner" if choice and choice.winner_id else "best trial"
    caution = holdout_note(run) if holdout_evaluations(search) else "The holdout has not been used."
    sections = [_headline(trials, search, model, choice, caution), *choice_part.sections(choice)]
    if best is not None and model is not None:
        drawn, note = plots.drawn_trials(trials)
        with quiet_about_glyphs():  # of a column's values, in whatever language
            sections += [
                *_how_good(run, options, trials, choice, model, title),
                section("How the search went", "", plots.progress(trials)),
                section("Learning curves", note, plots.learning_curves(drawn, curves, best.trial_id, title)),
                *parameters.sections(run, drawn, note),
            ]
    sections += [_leaderboard(trials, best), *_best_recipe(best, title), *origin.sections(run, search, trials)]
    file = out or run.report
    write_atomically(file, page(f"Search {run.name}", _question(search), sections))
    return file


def _check_can_show(run: SearchRun, options: ReportOptions) -> None:
    if options.group_by and not has_data(run):
        raise CallError(
            f"--group-by needs the run's photo table and split, but {run.data} lacks them. Leave out --group-by, or "
            f"prepare the data with: {run.resume_command}"
        )
    if options.with_photos and not (has_data(run) and (run.best / "bundle.json").exists()):
        raise CallError(
            f"--with-photos shows the winner's mistakes, but {run.name} has no model in best/, or no photo table. "
            f"Leave out --with-photos, or go on with the search: {run.resume_command}"
        )


def _how_good(
    run: SearchRun,
    options: ReportOptions,
    trials: Sequence[Record],
    choice: ChoiceRecord | None,
    model: Model,
    title: str,
) -> list[Section]:
    """How good the winner is, and for whom; of a run without stored predictions what the curve has."""
    if not has_data(run):
        return _scores(model, title)
    faces = FaceDataset.load(run.data, options.cache)
    people = people_table(faces, search_data(run))
    check_columns(options.group_by, people)
    named = f"trial {_handed_over(run) or model.trial.trial_id}"
    if choice is not None and choice.bag is not None and choice.is_bag:
        named = f"the bag ({choice.bag.members_text})"
    sets = read_sets(run, faces, trials, choice, named, predicts=options.predicts)
    found = how_good.sections(sets, options.group_by, people, *_fitted(run))
    wrong = mistakes.sections(run, faces, sets.validation, with_photos=options.with_photos)
    return [*(found if sets.shown else [*_scores(model, title), *found]), *wrong]


def _handed_over(run: SearchRun) -> str:
    """The trial whose bundle best/ holds, which is not the winner where the winner's weights were damaged; "" where
    that is not known."""
    try:
        return str(read_manifest(run.best)["scores"].get("trial", ""))
    except (MaskclsError, KeyError, AttributeError):
        return ""


def _fitted(run: SearchRun) -> tuple[Calibration | None, Decision | None]:
    """The calibration and the decision rule of the bundle in best/; None where there is none, or no bundle."""
    try:
        manifest = read_manifest(run.best)
        fitted, rule = manifest.get("calibration"), manifest.get("decision")
        return Calibration.from_dict(fitted) if fitted else None, Decision.from_dict(rule) if rule else None
    except (MaskclsError, KeyError, TypeError, ValueError):
        return None, None  # what is wrong with the bundle, the sections on its predictions say


@dataclass(frozen=True)
class Model:
    """What best/ holds: a trial, after its training to the end where the search had stopped it early."""

    trial: Record
    epoch: int
    """Its best one, from 1."""
    rows: Sequence[Mapping[str, Any]]
    """Its curve, one row per epoch."""

    @property
    def place(self) -> str:
        """For people: the trial and the epoch."""
        backbone, epochs = self.trial.recipe.get("backbone", ""), self.trial.recipe.get("epochs", "?")
        return f"trial {self.trial.trial_id}, {backbone}, epoch {self.epoch} of {epochs}"


def model_of(run: SearchRun, best: Record, choice: ChoiceRecord | None, curves: Curves) -> Model:
    """What best/ holds, or would hold, of a search whose winner or best trial is `best`."""
    to_end = choice.winner.to_end if choice and choice.winner else None
    if to_end is None:
        return Model(best, best.best_epoch, curves[best.trial_id])
    folder = finish_request(run, best, cpus=1, gpus=0.0).folder
    return Model(best, to_end.best_epoch, _curve(folder))


def _curve(folder: Path) -> Sequence[Mapping[str, Any]]:
    """A fit's curve; none, and a warning, where it is damaged: the rest of the page does not depend on it."""
    try:
        return read_curve(folder)
    except Damaged as error:
        log.warning("A curve is missing in the report. %s", error)
        return []


def _with_time(trial: Record, rows: Sequence[Mapping[str, Any]]) -> Record:
    """The trial with the time of its curve where the study, which learns it at the trial's end, has none."""
    return trial if trial.seconds or not rows else replace(trial, seconds=float(rows[-1].get("seconds", 0.0)))


def gain(trials: Sequence[Record]) -> float | None:
    """The best validation macro F1 minus that of the preset's recipe; None where either is missing.

    The best is selected among many, so this is too high: `ChoiceRecord.gain` compares repeats instead.
    """
    best, preset = leaderboard.best(trials), leaderboard.preset(trials)
    if best is None or best.f1 is None or preset is None or preset.f1 is None:
        return None
    return best.f1 - preset.f1


def _best(trials: Sequence[Record], choice: ChoiceRecord | None) -> Record | None:
    """The trial whose bundle is in best/: the repeats' winner, or without repeats the best by validation."""
    winner = next((trial for trial in trials if choice and trial.trial_id == choice.winner_id), None)
    return winner or leaderboard.best(trials)


def _question(search: SearchRecord) -> str:
    space = search.space
    return f"Space {space.name}: {space.question}" if space else ""


def _headline(
    trials: Sequence[Record],
    search: SearchRecord,
    model: Model | None,
    choice: ChoiceRecord | None,
    note: str,
) -> Html:
    """The tiles on top: scores first, then what they cost."""
    states = Counter(trial.state for trial in trials)
    wanted = search.option("trials", 0)
    of_all = f" of {wanted}" if wanted > len(trials) else ""
    seconds = sum(trial.seconds for trial in trials)
    difference = gain(trials)
    cost = [
        ("trials", f"{len(trials)}{of_all}", ", ".join(f"{n} {state}" for state, n in states.most_common())),
        ("time spent in trials", duration(seconds), f"{sum(trial.epochs for trial in trials)} epochs"),
    ]
    figure = "–" if difference is None else f"{difference:+.4f}"
    gain_tile = ("gain over the preset's recipe", figure, _preset_f1(trials))
    winner = choice.winner if choice else None
    if model is not None and choice is not None and winner is not None:
        figures = choice_part.figures(choice, winner, model.place)
        return tiles([*figures, *cost], choice_part.caution(choice, note, gain_tile))
    if model is None:
        shown = [("best validation macro F1", "–", ""), gain_tile, *cost]
        return tiles(shown, "No trial has finished an epoch yet.")
    best = ("best validation macro F1", f"{model.trial.f1:.4f}", model.place)
    shown = [best, gain_tile, *choice_part.averaging(choice), *cost]
    caution = (
        "The best of many validation scores is optimistic, because it was selected: expect a somewhat lower score on "
        "people whom no trial saw."
    )
    return tiles(shown, caution)


def _preset_f1(trials: Sequence[Record]) -> str:
    preset = leaderboard.preset(trials)
    if preset is None:
        return "the preset was not tried"
    return f"trial {preset.trial_id}: " + ("no score" if preset.f1 is None else f"{preset.f1:.4f}")


def _scores(model: Model, title: str) -> list[Section]:
    """F1 of each task and of each class, of the model's best epoch; nothing where its curve has no scores."""
    row = next((row for row in model.rows if row["epoch"] == model.epoch), {})
    scores = row.get("scores")
    if not scores:
        return []
    tasks = [[name, bar(f1), f"{f1:.3f}"] for name, f1 in scores["task_f1"].items()]
    classes = [
        [str(number), name, "", "nobody in validation"] if f1 is None else [str(number), name, bar(f1), f"{f1:.3f}"]
        for number, (name, f1) in enumerate(zip(CLASS_NAMES, scores["class_f1"], strict=True))
    ]
    photos, accuracy = scores["n"], scores["accuracy"]
    trial = model.trial.trial_id
    note = f"Trial {trial}, epoch {model.epoch}: {photos} validation photos, accuracy {accuracy:.1%}."
    content = table(["task", "of 1", "F1"], tasks) + table(["class", "name", "of 1", "F1"], classes)
    return [section(f"F1 of the {title}, by task and class", note, content)]


def _leaderboard(trials: Sequence[Record], best: Record | None) -> Html:
    rows = leaderboard.ranked(trials)
    cells = [_row(place, trial) for place, trial in enumerate(rows[:MAX_ROWS], start=1)]
    more = f" The first {MAX_ROWS} of {len(rows)}; leaderboard.csv has all." if len(rows) > MAX_ROWS else ""
    headers = ["place", "trial", "F1", "epoch", "state", "from", "time", "recipe's overrides"]
    marked = next((number for number, trial in enumerate(rows[:MAX_ROWS]) if trial is best), None)
    return section("Leaderboard", f"By the best validation macro F1 of any epoch.{more}", table(headers, cells, marked))


def _row(place: int, trial: Record) -> list[str | Html]:
    colour = plots.STATE_COLOURS.get(trial.state, INK)
    return [
        str(place) if trial.f1 is not None else "",
        trial.trial_id,
        "–" if trial.f1 is None else f"{trial.f1:.4f}",
        f"{trial.best_epoch} / {trial.epochs}",
        dot(colour) + trial.state,
        trial.origin,
        duration(trial.seconds),
        _overrides(trial),
    ]


def _overrides(trial: Record) -> str | Html:
    """What the trial's recipe has that the preset's has not; of many values only the first stay unfolded."""
    values = [f"{key} {_value(value)}" for key, value in (trial.overrides or trial.params).items()]
    shown, rest = values[:UNFOLDED], values[UNFOLDED:]
    text = ", ".join(shown) or "the preset's own recipe"
    if trial.message:
        text += f" – {trial.message}"
    return escape(text) + folded(f"and {len(rest)} more", paragraph(", ".join(rest))) if rest else text


def _best_recipe(best: Record | None, title: str) -> list[Html]:
    if best is None:
        return []
    recipe = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in best.recipe.items()}
    changed = {key: value for key, value in recipe.items() if key in best.overrides}
    rest = {key: value for key, value in recipe.items() if key not in best.overrides}
    content = pairs(changed, "chosen by the search") + pairs(
        rest, "from the preset, the scale and the call", unfolded=False
    )
    heading = "The winner's recipe" if title == "winner" else "The best recipe"
    return [section(f"{heading}, trial {best.trial_id}", "", content)]


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value) or NOTHING
