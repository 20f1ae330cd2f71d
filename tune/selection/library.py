"""The library from which an ensemble is selected: finalists of one or more searches, and their predictions."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskcls.errors import CallError, DataError
from maskcls.labels import stratum_of
from maskcls.recipe import Recipe
from maskcls.text import command
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.averaging import parts_of
from tune.selection.ensembles import Library
from tune.selection.finalists import NOT_KEPT, Design, Finalist, RepeatBy, read_finalists
from tune.selection.finish import with_end
from tune.selection.record import read_choice

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

log = logging.getLogger("maskcls")


@dataclass(frozen=True)
class Candidate:
    """A finalist of a run: trained to its end, and all of its repeats are complete."""

    run: SearchRun
    finalist: Finalist

    @property
    def name(self) -> str:
        return f"{self.run.name}/{self.finalist.trial_id}"

    @property
    def recipe(self) -> Recipe:
        return Recipe.checked(self.finalist.recipe)


def check_runs(runs: Sequence[SearchRun]) -> Design:
    """The design that the runs' finalists share.

    Raises CallError where runs, or their finalists, cannot be combined.
    """
    for one, other in itertools.combinations(runs, 2):
        if one.path.resolve() == other.path.resolve():
            raise CallError(f"--run {one.name} is given twice. Name each run once.")
    first, designs = runs[0], [design_of_run(run) for run in runs]
    for run, design in zip(runs[1:], designs[1:], strict=True):
        for what, digest in (("data set", _data_digest), ("split of the people", _split_digest)):
            if digest(run) != digest(first):
                raise CallError(
                    f"{run.name} has another {what} than {first.name} ({digest(run)}, not {digest(first)}): one may "
                    "have trained on the people who score the other. Name runs on the same --data, --split-seed, "
                    "--split and --corrections."
                )
        alike = ("--repeats", designs[0].repeats, "--repeat-by", designs[0].by)
        # How many finalists there are may differ: each brings its own predictions.
        if (design.by, design.repeats, design.n_folds) != (designs[0].by, designs[0].repeats, designs[0].n_folds):
            raise CallError(
                f"The finalists of {run.name} have {design.repeats} repeats by {design.by}, those of {first.name} "
                f"{designs[0].repeats} by {designs[0].by}, so their predictions cannot be compared. Repeat them alike: "
                f"{_more(run, *alike)}"
            )
    return designs[0]


def find_candidates(runs: Sequence[SearchRun], faces: FaceDataset) -> list[Candidate]:
    """The finalists of the runs that are complete and have complete repeats; a warning names each of the others.

    The exported weights are those of the trial itself, after its training to the end where the search had stopped it
    early. One that is not trained to its end is no candidate: its repeats were, and say nothing about its weights.

    Args:
        runs: that `check_runs` accepted.
        faces: the dataset that they share.

    Raises CallError for fewer than two candidates.
    """
    found = []
    for run in runs:
        design, trials = design_of_run(run), records(run)
        # Folds and fit ids depend on split and photos, which `check_runs` found to be the same in all runs.
        for finalist in (with_end(run, one) for one in read_finalists(run, trials, faces, design)):
            reason = f"{'; '.join(finalist.failed)}." if finalist.failed else ""
            if finalist.diverged:
                reason = f"the trial was stopped early, then trained to its end: {finalist.unfinished}"
            elif finalist.unfinished == NOT_KEPT:
                reason = f"{NOT_KEPT} (--keep). To train it again: {run.resume_command}"
            elif finalist.unfinished:
                reason = (
                    f"the trial was stopped early, and is not trained to its end ({finalist.unfinished}). To train it: "
                    f"{run.resume_command}"
                )
            if reason:
                log.warning("Finalist %s of %s is left out: %s", finalist.trial_id, run.name, reason)
            else:
                found.append(Candidate(run, finalist))
    if len(found) < 2:
        names = " and ".join(run.name for run in runs)
        raise CallError(
            "An ensemble needs at least two finalists that are complete and have complete repeats, "
            f"but {names} has {len(found)}. "
            f"Train more: {_more(runs[0], '--finalists', max(3, design_of_run(runs[0]).finalists + 1))}"
        )
    return found


def build_library(found: Sequence[Candidate], faces: FaceDataset, design: Design) -> Library:
    """The predictions of the candidates' repeats, repeat by repeat.

    Raises DataError where their photos differ, CallError where too few people validate repeats by seeds.
    """
    # Rows of different candidates are averaged, so each must have the same photos in the same order.
    repeats = found[0].finalist.repeats
    for candidate in found[1:]:
        # Both have as many repeats as the design, or they would be no candidates.
        for one, other in zip(repeats, candidate.finalist.repeats, strict=True):
            if one.keys != other.keys:
                raise DataError(
                    f"Repeat {one.repeat + 1} of {found[0].name} and of {candidate.name} have predictions for "
                    f"different photos, so they cannot be compared. Remove {candidate.run.finalists} and repeat its "
                    f"finalists: {_more(candidate.run)}"
                )
    keys = [key for repeat in repeats for key in repeat.keys]  # n rows, repeat after repeat
    people = faces.photos.set_index("key").loc[keys]  # n rows, in the order of the predictions
    number = np.repeat(np.arange(len(repeats)), [len(repeat.keys) for repeat in repeats]).astype(np.int64)  # (n,)
    person = people["person"]
    # A fold is a part already: its people were left out of the training. Seeds score the same people in every repeat,
    # so these people are divided into parts for the selection.
    part = (
        number
        if design.by == RepeatBy.FOLDS
        else np.array(list(map(_parts(faces, found[0].run).get, person)), np.int64)
    )
    log_probs = [[repeat.log_probabilities for repeat in candidate.finalist.repeats] for candidate in found]
    return Library(
        # (K, n, 18); float64, because probabilities that were stored as float32 are summed many times over.
        probabilities=np.exp(np.stack([np.concatenate(each) for each in log_probs]).astype(np.float64)),
        truth=np.concatenate([repeat.truth for repeat in repeats]),
        repeat=number,
        part=part,
        person=person.to_numpy(object),
        stratum=np.array(list(map(stratum_of, people["label"].tolist())), np.int64),
    )


def design_of_run(run: SearchRun) -> Design:
    """The design of a run's finalists. Raises CallError where none were repeated."""
    choice = read_choice(run.record())
    if choice is None:
        raise CallError(f"{run.name} has no finalists yet. Train them: {_more(run, '--finalists', 3)}")
    return choice.design


def _more(run: SearchRun, *words: object) -> str:
    """The command that repeats more finalists of a run."""
    return command("tune.search", "--resume", run.path, *words)


def _data_digest(run: SearchRun) -> str | None:
    return run.record().data.digest


def _split_digest(run: SearchRun) -> str | None:
    return run.record().split_digest


def _parts(faces: FaceDataset, run: SearchRun) -> dict[str, int]:
    """`parts_of` the validation people. Raises CallError where they can't be divided."""
    found = parts_of(faces)
    if found is None:
        raise CallError(
            f"The people on whom repeats by seeds are validated (here {len(faces.split.validation)}) are to select an "
            "ensemble by one part of them and score it on another, but they cannot be divided: expected two or more "
            f"who share no photo. Repeat the finalists by folds: {_more(run, '--repeat-by', RepeatBy.FOLDS)}"
        )
    return found
