"""The library that an ensemble is selected from: the finalists of one or more searches, and what their repeats answered."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskcls import seeds
from maskcls.errors import CallError, DataError
from maskcls.labels import stratum
from maskcls.recipe import Recipe
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.ensembles import Library
from tune.selection.finalists import Design, Finalist, RepeatBy, read_finalists
from tune.selection.record import read_choice
from tune.states import TrialState

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

log = logging.getLogger("maskcls")

PARTS = 5
"""Of the validation people, each left out in turn, where repeats differ in their seeds alone."""


@dataclass(frozen=True)
class Candidate:
    """A finalist of a run: a complete trial, all of whose repeats are complete."""

    run: SearchRun
    finalist: Finalist

    @property
    def name(self) -> str:
        return f"{self.run.name}/{self.finalist.trial_id}"

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.finalist.recipe)


def check_runs(runs: Sequence[SearchRun]) -> Design:
    """The design that the runs' finalists share. Raises CallError where the runs, or their finalists, don't go together."""
    for one, other in itertools.combinations(runs, 2):
        if one.path.resolve() == other.path.resolve():
            raise CallError(f"--run {one.name} is given twice. Name each run once.")
    first, designs = runs[0], [_design(run) for run in runs]
    for run, design in zip(runs[1:], designs[1:], strict=True):
        for what, told in (
            ("photos", _data_digest),
            ("split of the people", lambda one: one.search().get("split_digest")),
        ):
            if told(run) != told(first):
                raise CallError(
                    f"{run.name} has another {what} than {first.name} ({told(run)}, not {told(first)}): what one trained on may be what "
                    "another is scored by. Name runs on the same --data, --split-seed, --split and --corrections."
                )
        alike = ("--repeats", designs[0].repeats, "--repeat-by", designs[0].by)
        if (design.by, design.repeats) != (designs[0].by, designs[0].repeats):
            raise CallError(
                f"The finalists of {run.name} have {design.repeats} repeats by {design.by}, those of {first.name} {designs[0].repeats} by "
                f"{designs[0].by}, so their answers don't compare. Repeat them alike: {_more(run, *alike)}"
            )
    return designs[0]


def find_candidates(runs: Sequence[SearchRun], faces: FaceDataset) -> list[Candidate]:
    """The finalists of the runs, as `check_runs` let pass, which are complete, and their repeats as well; the others are logged.

    What is exported is a trial's own fit: of one that was stopped early it is not what its repeats, trained to the end, answered with.

    Raises CallError for fewer than two.
    """
    found = []
    for run in runs:
        design, trials = _design(run), records(run)
        states = {trial.trial_id: trial.state for trial in trials}
        for finalist in read_finalists(run, trials, faces, design):
            why = "; ".join(finalist.failed)
            if states[finalist.trial_id] != TrialState.COMPLETE:
                why = f"the trial was {states[finalist.trial_id]}, and is not trained to its end"
            if why:
                log.warning("Finalist %s of %s is left out: %s.", finalist.trial_id, run.name, why)
            else:
                found.append(Candidate(run, finalist))
    if len(found) < 2:
        names = " and ".join(run.name for run in runs)
        raise CallError(
            f"An ensemble needs at least two finalists that are complete, repeats as well, but {names} has {len(found)}. "
            f"Train more: {_more(runs[0], '--finalists', max(3, _design(runs[0]).finalists + 1))}"
        )
    return found


def build_library(found: Sequence[Candidate], faces: FaceDataset, design: Design) -> Library:
    """What the candidates' repeats answered, repeat by repeat. Raises DataError where they answered different photos."""

    repeats = found[0].finalist.repeats
    for candidate in found[1:]:
        for one, other in zip(repeats, candidate.finalist.repeats, strict=True):
            if one.keys != other.keys:
                raise DataError(
                    f"Repeat {one.repeat + 1} of {found[0].name} and of {candidate.name} answered different photos, so they don't compare. "
                    f"Remove {candidate.run.finalists} and repeat its finalists: {_more(candidate.run)}"
                )
    keys = [key for repeat in repeats for key in repeat.keys]
    people = faces.photos.set_index("key").loc[keys]
    number = np.repeat(np.arange(len(repeats)), [len(repeat.keys) for repeat in repeats]).astype(np.int64)
    person = people["person"]
    by_part = number if design.by == RepeatBy.FOLDS else np.array(list(map(_parts(faces).get, person)), np.int64)
    answered = [[repeat.log_probabilities for repeat in candidate.finalist.repeats] for candidate in found]
    return Library(
        probabilities=np.exp(np.stack([np.concatenate(each) for each in answered]).astype(np.float64)),
        truth=np.concatenate([repeat.truth for repeat in repeats]),
        repeat=number,
        part=by_part,
        person=person.to_numpy(object),
        stratum=np.array(list(map(stratum, people["gender"], people["age"])), np.int64),
    )


def _design(run: SearchRun) -> Design:
    choice = read_choice(run.search())
    if choice is None:
        raise CallError(f"{run.name} has no finalists yet. Train them: {_more(run, '--finalists', 3)}")
    return choice.design


def _more(run: SearchRun, *words: object) -> str:
    """The command that repeats other finalists of a run."""
    return " ".join(map(str, ("python -m tune.search --resume", run.path, *words)))


def _data_digest(run: SearchRun) -> str | None:
    digest: str | None = run.search().get("data", {}).get("digest")
    return digest


def _parts(faces: FaceDataset) -> dict[str, int]:
    """The part of each validation person: PARTS of them, or fewer where there are fewer people, each like the whole."""
    from maskcls.data import splits

    people = faces.split.validation
    seed = seeds.seed_of(int(faces.split.digest, 16), PARTS)
    drawn = splits.folds(faces.photos, min(PARTS, len(people)), seed, people)
    return {person: number for number, fold in enumerate(drawn) for person in fold.validation}
