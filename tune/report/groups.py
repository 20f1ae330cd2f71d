"""How good, and for whom: F1 of each class, error rates of groups of people, confusions, and how sure it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.errors import CallError
from maskcls.labels import AGES, GENDERS, MASKS, N_CLASSES
from maskcls.tasks import TASKS
from maskcls.text import counted
from maskcls.training.metrics import macro_f1
from tune.report.predicted import Predicted
from tune.statistics.intervals import Floats
from tune.statistics.people import FEW_PEOPLE, Intervals, Statistic, f1, ratio

ERRORS = ("classes", "mask3", "gender2", "age3")
"""Tasks whose error rates are shown; the first is the class, of 18."""
MAX_GROUPS = 8
"""Values of a column that are groups of their own; the rarer ones are counted together."""
TOO_FEW = "too few to tell"
UNKNOWN = "not stated"
"""Group of the people of whom the table does not say it."""
CONFIDENCE_BINS = 10


@dataclass(frozen=True)
class ClassScores:
    """F1 of each of the k labels of a task."""

    names: tuple[str, ...]
    photos: NDArray[np.int64]
    """(k,) photos that have the label."""
    people: NDArray[np.int64]
    """(k,) people who have such photos."""
    f1: Intervals


def class_scores(found: Predicted, task: str) -> ClassScores:
    """F1 of each label of a task, with intervals over people; nan for a label that nobody has."""
    labels = TASKS[task]
    truth, predicted = labels.of(found.truth), labels.of(found.predicted)
    eye = np.eye(labels.n_labels)
    tables = [found.resamples.sums(one) for one in (eye[truth], eye[predicted], eye[truth] * eye[predicted])]
    return ClassScores(
        labels.label_names,
        tables[0].sum(axis=0).astype(np.int64),
        (tables[0] > 0).sum(axis=0),
        found.resamples.intervals(f1(*tables)),
    )


def confusion(found: Predicted, task: str) -> NDArray[np.int64]:
    """Photos by true label and predicted label, (k, k)."""
    labels = TASKS[task]
    flat = labels.of(found.truth) * labels.n_labels + labels.of(found.predicted)
    return np.bincount(flat, minlength=labels.n_labels**2).reshape(labels.n_labels, labels.n_labels)


@dataclass(frozen=True)
class Grouping:
    """A way to divide the photos into groups, and the name of each photo's group."""

    name: str
    values: NDArray[np.object_]
    """(n,) group of each photo."""
    order: tuple[str, ...]


def groupings(found: Predicted, columns: Sequence[str], table: pd.DataFrame) -> list[Grouping]:
    """Gender, age group, mask state, and the columns that were asked for.

    Args:
        table: one row per person, indexed by person, with these columns.
    """
    photos = found.photos
    known = [
        _named("gender", photos["gender"], GENDERS),
        _named("age group", photos["age_group"], AGES),
        _named("mask", photos["mask"], MASKS),
    ]
    # What the photo table has may differ between a person's photos; the rest is known of people.
    values = (photos[name] if name in photos else table[name].reindex(photos["person"]) for name in columns)
    return known + [_of_column(name, _with_numbers(each)) for name, each in zip(columns, values, strict=True)]


def _with_numbers(values: pd.Series) -> pd.Series:
    """The values as numbers if all are and there are many; an empty text stands for none."""
    values = values.astype(object).where(values.notna() & (values.astype(str) != ""), None)
    numbers = pd.to_numeric(values, errors="coerce")
    are_numbers = numbers.notna().sum() == values.notna().sum()
    return numbers if are_numbers and numbers.nunique() > MAX_GROUPS else values


def _named(name: str, values: pd.Series, names: Sequence[str]) -> Grouping:
    return Grouping(name, np.array([names[int(value)] for value in values], object), tuple(names))


def _of_column(name: str, values: pd.Series) -> Grouping:
    """Numbers with many values are cut into four groups of as many photos; of words the commonest are kept."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MAX_GROUPS:
        cut = pd.qcut(values, 4, duplicates="drop")
        order = tuple(f"{one.left:g} to {one.right:g}" for one in cut.cat.categories)
        # A missing number has the code -1.
        return _with_rest(name, [order[code] if code >= 0 else UNKNOWN for code in cut.cat.codes], order, UNKNOWN)
    words = values.astype(object).where(values.notna(), UNKNOWN).astype(str).to_numpy(object)
    common = pd.Series(words).value_counts().index[:MAX_GROUPS].tolist()
    rest = "all others"
    return _with_rest(name, [word if word in common else rest for word in words], tuple(sorted(common)), rest)


def _with_rest(name: str, groups: Sequence[str], order: tuple[str, ...], rest: str) -> Grouping:
    """The grouping, with one more group at its end if anybody is in it."""
    return Grouping(name, np.array(groups, object), (*order, rest) if rest in groups else order)


def check_columns(columns: Sequence[str], table: pd.DataFrame) -> None:
    """Raises CallError for a column that the table of people does not have."""
    for name in columns:
        if name not in table.columns:
            raise CallError(
                f"--group-by {name}: there is no such column. The people's table has {', '.join(table.columns)}."
            )


@dataclass(frozen=True)
class GroupScores:
    """The scores of one group of people, or of some of everybody's photos."""

    grouping: str
    name: str
    people: int
    photos: int
    f1: tuple[float, float, float]
    """Macro F1 over the classes that occur in the group, and its interval."""
    errors: tuple[tuple[float, float, float], ...]
    """By ERRORS, the share of the group's photos with another label, and its interval."""
    more: tuple[float, float, float]
    """The share of wrong classes in the group minus that in all other photos, and its interval."""

    @property
    def verdict(self) -> str:
        """Whether the group fares worse or better than all others."""
        if self.people < FEW_PEOPLE:
            return TOO_FEW
        if np.isnan(self.more[0]) or self.more[1] <= 0 <= self.more[2]:
            return "can't tell"
        return "more errors" if self.more[1] > 0 else "fewer errors"


def group_scores(found: Predicted, grouping: Grouping) -> list[GroupScores]:
    """The scores of each group that has photos."""
    names = [name for name in grouping.order if (grouping.values == name).any()]
    inside = np.stack([grouping.values == name for name in names], axis=1).astype(float)  # (n, G)
    resamples, n_groups = found.resamples, len(names)
    photos = resamples.sums(inside)  # (people, G)
    errors = []
    for task in ERRORS:
        wrong = (TASKS[task].of(found.truth) != TASKS[task].of(found.predicted)).astype(float)[:, None]  # (n, 1)
        errors.append(resamples.intervals(ratio(resamples.sums(inside * wrong), photos)))
    wrong = (found.truth != found.predicted).astype(float)[:, None]
    others = ratio(resamples.sums((1 - inside) * wrong), resamples.sums(1 - inside))
    own = ratio(resamples.sums(inside * wrong), photos)
    more = resamples.intervals(lambda weights: own(weights) - others(weights), low=-1.0)
    scores = resamples.intervals(_group_f1(found, inside))
    return [
        GroupScores(
            grouping=grouping.name,
            name=name,
            people=int((photos[:, at] > 0).sum()),
            photos=int(photos[:, at].sum()),
            f1=_at(scores, at),
            errors=tuple(_at(each, at) for each in errors),
            more=_at(more, at) if n_groups > 1 else (np.nan,) * 3,
        )
        for at, name in enumerate(names)
    ]


def _group_f1(found: Predicted, inside: Floats) -> Statistic:
    """The statistic macro F1 of each group, (r, G)."""
    n_groups = inside.shape[1]
    eye = np.eye(N_CLASSES)
    hit = (found.truth == found.predicted)[:, None]
    tables = [
        # (people, G * 18)
        found.resamples.sums((inside[:, :, None] * one[:, None, :]).reshape(len(inside), -1))
        for one in (eye[found.truth], eye[found.predicted], eye[found.truth] * hit)
    ]
    return lambda weights: macro_f1(*((weights @ table).reshape(-1, n_groups, N_CLASSES) for table in tables))


def _at(found: Intervals, at: int) -> tuple[float, float, float]:
    return float(found.value[at]), float(found.low[at]), float(found.high[at])


@dataclass(frozen=True)
class Calibration:
    """How often the class that is named is right, by how probable it is."""

    confidence: Floats
    """(b,) mean probability of the photos of each bin that has photos."""
    photos: NDArray[np.int64]
    """(b,)."""
    people: NDArray[np.int64]
    """(b,)."""
    right: Intervals
    """(b,) share of right classes."""
    error: tuple[float, float, float]
    """Expected calibration error, and its interval."""


def calibration(found: Predicted) -> Calibration:
    """The reliability diagram of the classes that are named, in ten bins of equal width, and its expected error.

    The error is the mean over the photos of |share of right classes - mean probability| of their bin (Guo et al., On
    Calibration of Modern Neural Networks, ICML 2017). It is never negative, so with few photos it is too high.
    """
    confidence = found.confidence  # (n,)
    number = np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    bins = np.unique(number)  # those that have photos
    inside = (number[:, None] == bins).astype(float)  # (n, b)
    sums = found.resamples.sums
    photos = sums(inside)
    right = sums(inside * (found.truth == found.predicted)[:, None])
    mean = sums(inside * confidence[:, None])

    def expected_error(weights: Floats) -> Floats:
        gap = np.abs(weights @ right - weights @ mean).sum(axis=1)  # photos of the bin times its gap
        error: Floats = (gap / (weights @ photos).sum(axis=1))[:, None]
        return error

    return Calibration(
        mean.sum(axis=0) / photos.sum(axis=0),
        photos.sum(axis=0).astype(np.int64),
        (photos > 0).sum(axis=0),
        found.resamples.intervals(ratio(right, photos)),
        _at(found.resamples.intervals(expected_error), 0),
    )


def score_text(score: tuple[float, float, float], people: int, digits: int = 3) -> str:
    """A score with its interval, as in `0.471 [0.391, 0.552]`; of too few people without one."""
    value, low, high = score
    if np.isnan(value):
        return "–"
    alone = f"{value:.{digits}f}"
    return alone if people < FEW_PEOPLE else f"{alone} [{low:.{digits}f}, {high:.{digits}f}]"


def percent_text(score: tuple[float, float, float], people: int) -> str:
    """A share with its interval in percent, as in `36 [29, 43]`; of too few people without one."""
    value, low, high = (100 * each for each in score)
    return f"{value:.0f}" if people < FEW_PEOPLE else f"{value:.0f} [{low:.0f}, {high:.0f}]"


def support_text(photos: int, people: int) -> str:
    """How many photos and people a score is of."""
    return f"{photos:,} of {counted(people, 'person', 'people')}"
