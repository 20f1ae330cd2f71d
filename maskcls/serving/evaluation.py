"""Scoring a bundle or a finished submission, and the tables that show it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table

from maskcls.errors import DataError
from maskcls.labels import CLASS_NAMES, UNKNOWN
from maskcls.serving.holdout_uses import EVALUATE, USES, HoldoutUse, bundle_digest, describe, note_uses, read_uses
from maskcls.serving.predictor import Predictor
from maskcls.serving.submission import classes_of, find_photos, read_classes
from maskcls.text import counted
from maskcls.training.metrics import Scores, scores

log = logging.getLogger("maskcls")

RUN_OF_A_BUNDLE = "search.json"
"""Lies beside the folder of a bundle that a search wrote into its run."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of all photos, and of the people whom the bundle has not seen."""

    everyone: Scores
    counts: tuple[int, ...]
    """Photos of each class in the truth."""
    people: int = 0
    seen: int = 0
    """How many of the people the bundle trained on or was chosen by."""
    held_out: int = 0
    """How many of the people are in the holdout of the bundle's split."""
    others: Scores | None = None
    """Scores of the photos of the other people; None if the bundle has seen all people or none."""
    unreadable: int = 0
    """Photos that could not be read and were left out."""


def evaluate(predictor: Predictor, photos: pd.DataFrame, *, skip_bad: bool = False) -> Evaluation:
    """Score a bundle on labelled photos.

    Args:
        photos: table with the columns file, label (0..17), and person if people are known.
        skip_bad: whether to leave out photos that cannot be read.

    Raises DataError that lists the photos which cannot be read, or, with `skip_bad`, if none can be read.
    """
    files = photos["file"].tolist()
    if skip_bad:
        found, bad, _ = predictor.predictions(files, skip_bad=True, progress=True)
    else:
        found, bad = predictor.probabilities(files, progress=True), {}
    good = np.setdiff1d(np.arange(len(photos)), list(bad))  # (m,) rows whose photos could be read
    if not len(good):
        raise DataError(
            f"None of the {len(photos):,} photos can be read, so there is nothing to score. "
            f"{next(iter(bad.values()), '')}"
        )
    truth, classes = photos["label"].to_numpy(np.int64)[good], predictor.classes(found[good])  # (m,) each
    # (m,), or (0,) where people are not known: then `new` is (0,) as well.
    persons = photos["person"].to_numpy(object)[good] if "person" in photos else np.array([], object)
    seen = {person for person in set(persons) if predictor.bundle.has_seen(person)}
    held_out = sum(map(predictor.bundle.is_held_out, set(persons)))
    new = np.array([person not in seen for person in persons], bool)  # (m,)
    return Evaluation(
        everyone=scores(truth, classes),
        counts=_counts(truth),
        people=len(set(persons)),
        seen=len(seen),
        held_out=held_out,
        others=scores(truth[new], classes[new]) if seen and new.any() else None,
        unreadable=len(bad),
    )


def labelled_photos(images: Path, answers: Path) -> pd.DataFrame:
    """List photos with their true classes, read from `answers`, as `label`. Raises DataError if some are not there."""
    photos = find_photos(images)
    return photos.assign(label=classes_of(photos["key"].tolist(), read_classes(answers), answers))


def with_all_labels(photos: pd.DataFrame) -> pd.DataFrame:
    """Return the photos whose class is known, and log how many others there are. Raises DataError where none is."""
    known = photos[photos["label"] != UNKNOWN].reset_index(drop=True)
    if known.empty:
        raise DataError(
            f"None of the {len(photos):,} photos has mask, gender and age group, so there is nothing to score. "
            "Add their labels."
        )
    if len(known) < len(photos):
        log.warning("%d of %d photos lack a label, and are not scored.", len(photos) - len(known), len(photos))
    return known


def evaluate_submission(submission: Path, answers: Path) -> Evaluation:
    """Score a finished submission: every photo of `answers` must be in it; photos that only it has are ignored."""
    expected = read_classes(answers)
    truth = np.array(list(expected.values()), np.int64)  # (n,), in the order of `answers`
    return Evaluation(scores(truth, classes_of(list(expected), read_classes(submission), submission)), _counts(truth))


def render(evaluation: Evaluation) -> RenderableType:
    """Tables of the scores for a terminal: overall, by task, by class; those of new people in a column beside."""
    columns = {"all photos": evaluation.everyone}
    if evaluation.others is not None:
        columns["people new to it"] = evaluation.others
    overall = Table("", *columns, title="Scores")
    overall.add_row("photos", *(f"{s.n:,}" for s in columns.values()))
    overall.add_row("macro F1", *(f"{s.f1:.4f}" for s in columns.values()), style="bold")
    overall.add_row("accuracy", *(f"{s.accuracy:.4f}" for s in columns.values()), end_section=True)
    for name in evaluation.everyone.task_f1:
        overall.add_row(f"F1 {name}", *(f"{s.task_f1[name]:.4f}" for s in columns.values()))
    classes = Table("class", "who", "photos", *("F1", "F1, new people")[: len(columns)], title="Classes")
    for number, name in enumerate(CLASS_NAMES):
        f1s = (s.class_f1[number] for s in columns.values())  # nan: none of these photos is of the class
        classes.add_row(
            str(number), name, f"{evaluation.counts[number]:,}", *("-" if np.isnan(f1) else f"{f1:.4f}" for f1 in f1s)
        )
    for table, first in ((overall, 1), (classes, 2)):
        for column in table.columns[first:]:
            column.justify = "right"
    return Group(overall, classes)


def warning(evaluation: Evaluation) -> str:
    """The warning about people whom the bundle has seen; "" if there are none."""
    if not evaluation.seen:
        return ""
    seen = (
        f"Warning: the bundle has seen {evaluation.seen:,} of these {evaluation.people:,} people "
        "(it trained on them, or was chosen by their score), so the score on all is too good."
    )
    if evaluation.others is None:
        return f"{seen} There is nobody else to score it on: give it people whom it has not seen."
    return f"{seen} On the other {evaluation.people - evaluation.seen:,} its macro F1 is {evaluation.others.f1:.4f}."


def note_use_of_holdout(evaluation: Evaluation, predictor: Predictor, runs: Path) -> str:
    """Note that the bundle was scored on its holdout, beside the runs, and return a sentence on how often that was
    used; "" if none of these people is in the holdout.

    Args:
        runs: the folder of all runs. A bundle inside a run's folder is noted beside that run instead.
    """
    if not evaluation.held_out:
        return ""
    bundle = predictor.bundle
    around = bundle.folder.absolute().parent
    place = around.parent if (around / RUN_OF_A_BUNDLE).is_file() else runs
    # With its mirror images it predicts something else, so that it has another score.
    what = bundle_digest(bundle.manifest) + (" with mirror images" if predictor.flip else "")
    use = HoldoutUse(bundle.data_digest, bundle.split_digest, what, EVALUATE, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    people = f"{counted(evaluation.held_out, 'person', 'people')} of the holdout of its search"
    try:
        note_uses(place, [use])
    except OSError as error:
        return (
            f"Scored on {people}. This use is not counted: {place / USES} cannot be written ({error.strerror}). Name "
            "the folder of all runs with --runs."
        )
    return f"Scored on {people}. {describe(read_uses(place, use.data, use.split))}"


def _counts(truth: NDArray[np.int64]) -> tuple[int, ...]:
    """Photos of each of the 18 classes."""
    return tuple(np.bincount(truth, minlength=len(CLASS_NAMES)).tolist())
