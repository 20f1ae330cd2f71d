"""The finalists of a search: its best trials, trained again with other seeds or on other people.

The search's own validation score selected the finalists, and is optimistic for that reason (Cawley and Talbot,
On Over-fitting in Model Selection and Subsequent Selection Bias in Performance Evaluation, JMLR 11, 2010). The repeats
are new draws, so that a single lucky score decides nothing. The people who score a repeat also pick its best epoch, as
in the search's trials: so the scores compare with each other and with the search's, and all share that small optimism.
The holdout takes no part.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskcls import seeds
from maskcls.data import splits
from maskcls.data.splits import Split
from maskcls.errors import CallError
from maskcls.files import write_atomically
from maskcls.labels import stratum_of
from maskcls.recipe import Recipe, canonical_of
from maskcls.serving.decision import Predicted, cross_fitted_classes, prior_of
from maskcls.training.checkpoint_files import has_weights
from maskcls.training.conditions import HARDWARE
from maskcls.training.metrics import scores
from tune.fitting.failures import ERROR, read_error
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.study import Record
from tune.selection.predictions import read_predictions
from tune.states import TrialState
from tune.statistics.repeated import RepeatPredictions, mean_f1_interval

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

TIE = 1e-9
"""Means of F1 that differ by less are equal but for rounding."""
NOT_DONE = "not done"
"""Why a fit is not complete that did not end."""
NOT_KEPT = "its weights were not kept"
"""Why a trial that is complete has no model."""


class RepeatBy(StrEnum):
    """What differs between a finalist's repeats, beside the seed."""

    FOLDS = "folds"
    """Repeat r trains on all but fold r of the train and validation people, and that fold validates it."""
    SEEDS = "seeds"
    """Every repeat has the run's own split."""


@dataclass(frozen=True)
class Design:
    """How many of the best trials are trained again, how often, and what differs between the repeats."""

    finalists: int
    repeats: int
    by: RepeatBy = RepeatBy.FOLDS
    folds: int = 0
    """Each repeat leaves out one of them; 0: as many as repeats. More where a time budget has no room for all."""

    def __post_init__(self) -> None:
        for option, value in (("--finalists", self.finalists), ("--repeats", self.repeats)):
            if value < 1:
                raise CallError(f"{option} must be at least 1, but got {value}.")
        try:
            object.__setattr__(self, "by", RepeatBy(self.by))  # search.json has the word alone
        except ValueError:
            words = " or by ".join(RepeatBy)
            raise CallError(f"Finalists are repeated by {words}, but got {self.by!r}.") from None
        if self.by == RepeatBy.FOLDS and self.n_folds == 1:
            raise CallError(
                "--repeats 1 makes no folds: one fold leaves nobody to train on. Give 2 or more, or --repeat-by seeds."
            )

    @property
    def n_folds(self) -> int:
        """Into how many folds the people are divided."""
        return self.folds or self.repeats


@dataclass(frozen=True)
class RepeatResult:
    """One complete repeat: what its best epoch predicts for the photos of its validation people.

    Their classes are decided as the bundle will decide, by a rule that was fitted without the person
    (`maskcls.serving.decision`), so that the score is that of the classifier that is handed over.
    """

    repeat: int
    """From 0."""
    seed: int
    best_epoch: int
    f1: float
    """Macro F1 of these classes."""
    keys: tuple[str, ...]
    """n photos."""
    truth: NDArray[np.int64]
    """(n,) classes 0..17."""
    log_probabilities: NDArray[np.float32]
    """(n, 18)."""
    classes: NDArray[np.int64]
    """(n,) the classes that are named."""


@dataclass(frozen=True)
class TrainedToEnd:
    """What a trial that was stopped early came to when it was trained to its recipe's last epoch."""

    validation_f1: float
    """Best validation macro F1 of all its epochs, those of the search too."""
    best_epoch: int


@dataclass(frozen=True)
class Finalist:
    """A trial of the search, its complete repeats, and its further training if it was stopped early."""

    trial_id: str
    validation_f1: float
    """The search's own score of the trial."""
    best_epoch: int
    """Of the trial."""
    recipe: dict[str, Any]
    repeats: tuple[RepeatResult, ...]
    failed: tuple[str, ...] = ()
    """One line for each repeat that has no result: which one, and why."""
    low: float = math.nan
    """Of the mean's 95 % interval (`tune.statistics.repeated`); nan for fewer than two complete repeats."""
    high: float = math.nan
    unfinished: str = ""
    """Why there is no model that was trained to the recipe's last epoch; "" where there is one."""
    to_end: TrainedToEnd | None = None
    """Of that model; None where there is none, and where the trial was not stopped early."""
    has_lost: bool = False
    """Whether it was left out of what its leader got (`tune.selection.race`)."""
    diverged: bool = False
    """Whether it cannot be handed over: it diverged when it was trained to its end."""

    @property
    def model_f1(self) -> float:
        """Best validation macro F1 of the model that is handed over: of the trial, trained to its end where it was
        stopped early and that is done."""
        return self.to_end.validation_f1 if self.to_end else self.validation_f1

    @property
    def mean(self) -> float:
        """Mean of the repeats' F1; nan where none is complete."""
        return statistics.fmean(repeat.f1 for repeat in self.repeats) if self.repeats else math.nan

    @property
    def spread(self) -> float:
        """Standard deviation of the repeats' F1 (n - 1); nan for fewer than two."""
        return statistics.stdev(repeat.f1 for repeat in self.repeats) if len(self.repeats) > 1 else math.nan


@dataclass(frozen=True)
class _PlannedRepeat:
    """A repeat of a finalist, done or not."""

    number: int
    fit_id: str
    recipe: Recipe
    split_file: Path


def top_trials(trials: Sequence[Record], finalists: int) -> list[Record]:
    """The best trials by validation macro F1, each recipe once; of equal scores the earlier trial.

    Only trials that are complete or were stopped early: one that diverged or failed would do so again. The repeats of a
    trial that was stopped early are trained to the end, and so is the trial itself (`tune.selection.finish`).
    """
    found: dict[str, Record] = {}  # by recipe, in the order of the ranking
    for record in leaderboard.ranked(trials):
        if record.f1 is not None and record.state in (TrialState.COMPLETE, TrialState.STOPPED_EARLY) and record.recipe:
            # Ranked best first, so a recipe that was tried twice, with any two seeds, keeps its better score.
            found.setdefault(_without_seed(record.recipe), record)
    return list(found.values())[:finalists]


def preset_trial(trials: Sequence[Record], finalists: Sequence[Record]) -> Record | None:
    """The trial whose repeats say what the preset's recipe does: trial 0, or the finalist that has its recipe.

    None where the preset was not tried, or gave no model: its repeats would do so again.
    """
    preset = leaderboard.preset(trials)
    found = top_trials([preset], 1) if preset is not None else []
    same = (one for one in finalists for own in found if _without_seed(one.recipe) == _without_seed(own.recipe))
    return next(same, found[0] if found else None)


def _without_seed(recipe: Mapping[str, Any]) -> str:
    """The same text for recipes that differ in their seed alone."""
    return canonical_of({**recipe, "seed": None})


def repeat_requests(
    run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design, *, cpus: int, gpus: float
) -> list[FitRequest]:
    """Every repeat of every finalist, repeat by repeat, the best trial first.

    A fit's id depends on recipe, seed, people and photos, so that a design with more or fewer finalists or repeats uses
    the fits that it has in common with this one.

    Raises:
        CallError: more folds than people.
        DataError: a fold's file is damaged.
    """
    planned = [(record, _plan_repeats(run, record, faces, design)) for record in top_trials(trials, design.finalists)]
    # Repeat by repeat, so that a search whose time is up has compared all finalists as far as it came.
    return [
        FitRequest(
            trial_id=repeats[number].fit_id,
            recipe=repeats[number].recipe.model_dump(),
            folder=run.finalists / repeats[number].fit_id,
            run=run.path,
            cpus=cpus,
            gpus=gpus,
            settings={"split": str(repeats[number].split_file.relative_to(run.path)), "trial": record.trial_id},
            label=f"trial {record.trial_id}, repeat {number + 1} of {design.repeats}",
            split=str(repeats[number].split_file.relative_to(run.path)),
            trial=record.trial_id,
            repeat=number,
            keeps_checkpoint=True,  # of the winner for a bag (`tune.selection.bag`); `keeping` removes the others
        )
        for number in range(design.repeats)
        for record, repeats in planned
    ]


def read_finalists(run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design) -> list[Finalist]:
    """The finalists with what is done of their repeats, best validation score first.

    What became of those that were stopped early, `tune.selection.finish.with_end` adds.
    """
    found = []
    for record in top_trials(trials, design.finalists):
        planned = _plan_repeats(run, record, faces, design)
        reasons = [why_missing(run.finalists / repeat.fit_id) for repeat in planned]
        missing = tuple(f"repeat {number}: {why}" for number, why in enumerate(reasons, start=1) if why)
        read = tuple(_result(run, repeat) for repeat, why in zip(planned, reasons, strict=True) if not why)
        done = _decided(read, faces)
        low, high = _interval(done, faces)
        found.append(
            Finalist(
                trial_id=record.trial_id,
                validation_f1=float(record.f1 or 0.0),
                best_epoch=record.best_epoch,
                recipe=record.recipe,
                repeats=done,
                failed=missing,
                low=low,
                high=high,
                unfinished=why_unfinished(run, record),
            )
        )
    return found


def why_unfinished(run: SearchRun, trial: Record) -> str:
    """Why a finalist's own folder holds no model that was trained to its recipe's last epoch; "" where it does."""
    if trial.state == TrialState.STOPPED_EARLY:
        return NOT_DONE
    folder = run.trial(trial.trial_id)
    return NOT_KEPT if (folder / HARDWARE).exists() and not has_weights(folder) else ""


def _interval(repeats: Sequence[RepeatResult], faces: FaceDataset) -> tuple[float, float]:
    """The 95 % interval of the mean of some repeats; nan for fewer than two."""
    if len(repeats) < 2:
        return math.nan, math.nan
    of_each = [RepeatPredictions(one.truth, one.classes, *people_of(one.keys, faces)) for one in repeats]
    found = mean_f1_interval(of_each)
    return found.low, found.high


def people_of(keys: Sequence[str], faces: FaceDataset) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The person (n,) and the stratum (n,) 0..5 of each of n photos, by their keys, in their order."""
    people = faces.photos.set_index("key").loc[list(keys)]
    return people["person"].to_numpy(object), np.array(list(map(stratum_of, people["label"].tolist())), np.int64)


def pick_winner(finalists: Sequence[Finalist]) -> Finalist | None:
    """The finalist with the highest mean; None where no repeat is complete, or all of those finalists diverged.

    Of means that are equal (TIE), the smaller spread wins, then the better validation score, then the earlier trial.
    Only finalists with as many complete repeats as any other compete: a mean over fewer repeats is more often a lucky
    one.
    """
    finalists = [finalist for finalist in finalists if not finalist.diverged]
    # A finalist with a failed repeat must not win by the mean of the repeats that happened to succeed.
    most = max((len(finalist.repeats) for finalist in finalists), default=0)
    if not most:
        return None
    competing = [finalist for finalist in finalists if len(finalist.repeats) == most]
    highest = max(finalist.mean for finalist in competing)
    tied = [finalist for finalist in competing if highest - finalist.mean < TIE]
    # Spreads are rounded as means are: otherwise their last bit would decide before the validation score does.
    return min(
        tied,
        # No spread: then each of them has one repeat.
        key=lambda one: (0.0 if math.isnan(one.spread) else round(one.spread / TIE), -one.validation_f1, one.trial_id),
    )


def fold_split(run: SearchRun, faces: FaceDataset, folds: int, number: int) -> Path:
    """The file with the split of one fold over the run's train and validation people, drawn when it is first needed."""
    file = run.finalist_split(folds, number)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        own = faces.split
        # The seed depends on the people and the number of folds alone, so that all finalists share their folds.
        seed = seeds.seed_of(int(own.digest, 16), folds)
        # The holdout is the run's: `folds` puts everybody else there, those as well whom a user's split leaves out.
        drawn = splits.folds(faces.photos, folds, seed, (*own.train, *own.validation))
        for each, split in enumerate(drawn):  # all at once: to draw them, the files of all photos are compared
            if not run.finalist_split(folds, each).exists():  # one that is there is a done repeat's
                write_atomically(run.finalist_split(folds, each), replace(split, holdout=own.holdout).to_json())
    return file


def digest_of(*parts: object) -> str:
    """16 hex digits that name a fit: equal for equal parts."""
    # Not hash(): a later process has to find the same fit.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _plan_repeats(run: SearchRun, record: Record, faces: FaceDataset, design: Design) -> list[_PlannedRepeat]:
    """The repeats of one finalist: their seeds, splits and fit ids, without training anything."""
    recipe = Recipe.checked(record.recipe)
    # The search's own seed is left out: on the search's own split it would give the very score that was selected.
    repeat_seeds = itertools.islice((seed for seed in itertools.count(1) if seed != recipe.seed), design.repeats)
    planned = []
    for number, seed in enumerate(repeat_seeds):
        file = (
            fold_split(run, faces, design.n_folds, number) if design.by == RepeatBy.FOLDS else run.data / "split.json"
        )
        split = Split.load(file) if design.by == RepeatBy.FOLDS else faces.split
        repeated = recipe.override({"seed": seed})
        planned.append(_PlannedRepeat(number, digest_of(repeated.digest, split.digest, faces.digest), repeated, file))
    return planned


def why_missing(folder: Path) -> str:
    """Why the fit in a folder is not complete; "" where it is."""
    result = FitResult.read(folder)
    if result is not None:
        return "" if result.state == TrialState.COMPLETE else f"{result.state}. {result.message}"
    # Only without a result: beside one, error.txt may be that of an attempt before it.
    lines = read_error(folder)
    # The last line of a traceback is the error itself.
    return f"failed. {lines[-1]} See {folder / ERROR}" if lines else NOT_DONE


def _result(run: SearchRun, repeat: _PlannedRepeat) -> RepeatResult:
    folder = run.finalists / repeat.fit_id
    result = FitResult.read(folder)
    assert result is not None, "a repeat that is missing has no RepeatResult"
    best = float(result.best_validation_f1 or 0.0)
    keys, truth, log_probabilities = read_predictions(folder)
    likeliest = log_probabilities.argmax(axis=1)  # (n,)
    return RepeatResult(
        repeat.number, repeat.recipe.seed, result.best_epoch, best, keys, truth, log_probabilities, likeliest
    )


def predicted_by(repeats: Sequence[RepeatResult], faces: FaceDataset) -> Predicted:
    """What repeats of one finalist predicted, repeat after repeat."""
    logs = np.concatenate([one.log_probabilities for one in repeats]).astype(np.float64)  # (n, 18)
    truth = np.concatenate([one.truth for one in repeats])
    return Predicted(np.exp(logs), truth, np.concatenate([people_of(one.keys, faces)[0] for one in repeats]))


def _decided(repeats: tuple[RepeatResult, ...], faces: FaceDataset) -> tuple[RepeatResult, ...]:
    """The repeats with the classes that a rule names which was fitted on other people of all of them."""
    if not repeats:
        return repeats
    classes = cross_fitted_classes(predicted_by(repeats, faces), prior_of(faces))
    ends = np.cumsum([len(one.keys) for one in repeats])
    found = []
    for one, own in zip(repeats, np.split(classes, ends[:-1]), strict=True):
        # Where the rule changes nothing, the score stays as the fit has it, to the bit.
        changed = (own != one.classes).any()
        found.append(replace(one, classes=own, f1=scores(one.truth, own).f1) if changed else one)
    return tuple(found)
