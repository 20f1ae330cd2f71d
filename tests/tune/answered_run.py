"""A run with trained trials, an epoch each, whose finalists' repeats answered as a test says: in files as a search
leaves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.metrics import scores
from tests.tune.selection.small_run import BASE, add_trial
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.record import DataRecord
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import records
from tune.selection.choice import write_choice
from tune.selection.finalists import Design, pick_winner, read_finalists, repeat_requests
from tune.selection.predictions import write_predictions
from tune.selection.record import ChoiceRecord
from tune.states import TrialState

Answer = Callable[[int, np.ndarray], np.ndarray]
"""(candidate, (n,) true classes) -> (n, 18) probabilities."""


def add_trained_trial(run: SearchRun, faces: FaceDataset, f1: float, overrides: dict[str, Any]) -> None:
    """A trial of the study with an epoch's weights; `f1` is what the search would have said of it."""
    trial = add_trial(run, [f1], overrides)
    recipe = BASE.override({**overrides, "epochs": 1})
    fit = Fit(recipe, FitData.of(faces, recipe))
    list(fit.epochs())
    fit.save(run.trial(trial.trial_id))


def note_data(run: SearchRun, faces: FaceDataset) -> None:
    """What a search notes of its data."""
    data = DataRecord(digest=faces.digest)
    run.write_record(run.record().changed(data=data, split_digest=faces.split.digest))


def let_answer(run: SearchRun, faces: FaceDataset, design: Design, candidates: Sequence[int], answer: Answer) -> None:
    """The repeats of the run's finalists, best validation score first, as these candidates answer; and the choice that
    follows."""
    trials = records(run)
    asked = repeat_requests(run, trials, faces, design, cpus=1, gpus=0.0)
    numbers = dict(zip(dict.fromkeys(request.settings["trial"] for request in asked), candidates, strict=True))
    photos = faces.photos
    for request in asked:
        split = Split.load(run.path / request.settings["split"])
        rows = np.flatnonzero(photos["person"].isin(split.validation))
        truth = photos["label"].to_numpy(np.int64)[rows]
        found = answer(numbers[request.settings["trial"]], truth)
        request.folder.mkdir(parents=True, exist_ok=True)
        write_predictions(
            request.folder, photos["key"].to_numpy(object)[rows].tolist(), truth, np.log(np.maximum(found, 1e-30))
        )
        f1 = scores(truth, found).f1
        FitResult(TrialState.COMPLETE, "", 1, 1, f1, 1.0, 1, 0.0, request.settings, {}).write(request.folder)
    finalists = tuple(read_finalists(run, trials, faces, design))
    write_choice(run, ChoiceRecord.from_results(design, Outcome(Reason.FINISHED, 0), finalists, pick_winner(finalists)))


def outvoting(candidate: int, truth: np.ndarray) -> np.ndarray:
    """Three candidates, each wrong, half-heartedly, on every third photo: any two of them outvote the other one."""
    right, wrong = np.eye(18)[truth], np.eye(18)[(truth + 1) % 18]
    errs = (np.arange(len(truth)) % 3 == candidate)[:, None]
    return np.where(errs, 0.6 * wrong + 0.4 * right, right)


def one_knows(candidate: int, truth: np.ndarray) -> np.ndarray:
    """Candidate 1 knows all; the others give every photo the next class."""
    return np.eye(18)[truth if candidate == 1 else (truth + 1) % 18]
