"""The part of a search's page on how good the winner is, and for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from maskcls.labels import CLASS_NAMES
from maskcls.reports.page import Html, Section, folded, grid, listed, paragraph, part, section, table
from maskcls.serving.calibration import Calibration
from maskcls.serving.decision import Decision
from maskcls.text import counted
from maskcls.training.metrics import BASE_TASKS
from tune.report import group_plots
from tune.report.groups import (
    TOO_FEW,
    ClassScores,
    GroupScores,
    class_scores,
    confusion,
    group_scores,
    groupings,
    percent_text,
    score_text,
    support_text,
)
from tune.report.predicted import Predicted, PredictedSets
from tune.report.sureness import sureness
from tune.statistics.paired import expected_by_chance
from tune.statistics.people import FEW_PEOPLE

TASK_TITLES = {"mask3": "mask", "gender2": "gender", "age3": "age group"}
_METHOD = (
    "Intervals are 95 % over people: whole people are resampled within gender and age group, since the photos of one "
    "person are right or wrong together. "
    f"A class or group of fewer than {FEW_PEOPLE} people has no interval: {TOO_FEW}."
)


def sections(
    sets: PredictedSets,
    columns: Sequence[str],
    people: pd.DataFrame,
    fitted: Calibration | None = None,
    rule: Decision | None = None,
) -> list[Section]:
    """The sections on classes, groups, confusions and probabilities.

    Args:
        columns: of `people`, to group by in addition.
        people: one row per person, indexed by person.
        fitted: the calibration of the bundle in best/.
        rule: its decision rule.
    """
    shown = sets.shown
    if not shown:
        return [section("How good, for whom", "", listed(sets.notes))] if sets.notes else []
    of_whom = listed([f"{one.name}: {one.about} {one.size}." for one in shown])
    classes = {one.name: class_scores(one, "classes") for one in shown}
    intro = of_whom + paragraph(_METHOD) + listed(sets.notes)
    return [
        section("How good, for whom", "", intro + _tasks(shown) + _groups(shown, columns, people)),
        section("F1 of each class", "", group_plots.class_intervals(classes) + folded("as a table", _classes(classes))),
        section(
            "What is taken for what",
            "Each row is what the photos are, each column what they were predicted to be; the numbers are photos.",
            Html("").join(_confusions(one, is_open=number == 0) for number, one in enumerate(shown)),
        ),
        sureness(shown, fitted, rule),
    ]


def _tasks(shown: Sequence[Predicted]) -> Html:
    """F1 of each label of the base tasks."""
    rows: list[list[str | Html]] = []
    for task in BASE_TASKS:
        scores = [class_scores(one, task) for one in shown]
        for at, name in enumerate(scores[0].names):
            rows.append([TASK_TITLES[task] if at == 0 else "", name, *(_f1_of(each, at) for each in scores)])
    headers = ["task", "label", *(f"F1, {one.name}" for one in shown)]
    return part("By task", "", table(headers, rows))


def _f1_of(scores: ClassScores, at: int) -> str:
    found = scores.f1
    return score_text((found.value[at], found.low[at], found.high[at]), int(scores.people[at]))


def _groups(shown: Sequence[Predicted], columns: Sequence[str], people: pd.DataFrame) -> Html:
    scores = {
        one.name: [each for by in groupings(one, columns, people) for each in group_scores(one, by)] for one in shown
    }
    verdicts = [each.verdict for found in scores.values() for each in found]
    differ = sum(verdict.endswith("errors") for verdict in verdicts)
    compared = sum(verdict != TOO_FEW for verdict in verdicts)
    note = (
        "The last column compares a group's share of wrong classes with that of all other photos: more or fewer errors "
        "where zero is outside the interval of the difference. "
        f"{differ} of {counted(compared, 'comparison')} differ; {expected_by_chance(compared):.1f} would by chance "
        "if no group fared worse. F1 does not compare well between groups that have different classes; error rates do."
    )
    tables = Html("").join(
        folded(f"{one.name}, as a table", _group_table(scores[one.name]), unfolded=number == 0)
        for number, one in enumerate(shown)
    )
    return part("By group of people", note, group_plots.group_intervals(scores) + tables)


def _group_table(found: Sequence[GroupScores]) -> Html:
    rows: list[list[str | Html]] = [
        [
            f"{one.grouping}: {one.name}",
            f"{one.photos:,} / {one.people:,}",
            score_text(one.f1, one.people, 2),
            *(percent_text(each, one.people) for each in one.errors),
            _verdict(one),
        ]
        for one in found
    ]
    wrong = ["wrong class, %", "mask, %", "gender, %", "age, %"]
    return table(["group", "photos / people", "macro F1", *wrong, "against others, %"], rows)


def _verdict(one: GroupScores) -> str:
    value, low, high = (100 * each for each in one.more)
    if one.verdict == TOO_FEW or np.isnan(value):
        return one.verdict
    return f"{one.verdict}: {value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _classes(classes: dict[str, ClassScores]) -> Html:
    rows = [
        [
            str(at),
            name,
            *(
                text
                for found in classes.values()
                for text in (support_text(int(found.photos[at]), int(found.people[at])), _f1_of(found, at))
            ),
            TOO_FEW if all(found.people[at] < FEW_PEOPLE for found in classes.values()) else "",
        ]
        for at, name in enumerate(CLASS_NAMES)
    ]
    headers = ["class", "name", *(text for name in classes for text in (f"photos, {name}", f"F1, {name}")), "remark"]
    return table(headers, rows)


def _confusions(one: Predicted, *, is_open: bool) -> Html:
    tasks = [group_plots.confusion(confusion(one, task), task, TASK_TITLES[task]) for task in BASE_TASKS]
    whole = group_plots.confusion(confusion(one, "classes"), "classes", f"all 18 classes, {one.name}")
    return folded(f"{one.name}: {one.size}", grid(tasks, small=True) + whole, unfolded=is_open)
