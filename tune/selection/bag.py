"""The winner of a search and its repeats as one bundle, whose probabilities are averaged: a bag of models.

They are trained already, on other people or from other seeds (Breiman, Bagging Predictors, Machine Learning 24, 1996;
Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles,
NeurIPS 2017). A photo is answered by all of them, which takes so many times the work.

No person was left out by all models of the bag, so the whole bag has no validation score. What averaging brings is
measured on the validation people: the trial itself left them out, and so did the repeats that validated on them, which
is one fold's, or every seed's. The mean of these models is compared with such a repeat alone, each with the classes of
its decision rule (`maskcls.serving.decision`), which is fitted without the person.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, Missing
from maskcls.serving.bundle import read_bundle
from maskcls.serving.calibration import fit_calibration
from maskcls.serving.decision import Predicted, cross_fitted_classes, fit_decision, prior_of
from maskcls.serving.export import Trained, export_classifiers, note_fitted, note_scores
from maskcls.serving.predictor import Predictor
from maskcls.text import counted
from maskcls.training.checkpoint import load_best
from maskcls.training.checkpoint_files import has_weights
from maskcls.training.fit_data import scored_rows
from tune.fitting.request import FitRequest
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.export import complete_states, model_of
from tune.selection.finalists import Finalist, people_of, read_finalists, repeat_requests
from tune.selection.finish import with_end
from tune.selection.fitted import Fitted
from tune.selection.record import read_choice
from tune.statistics.paired import ModelDifference, Repeat, model_difference


@dataclass(frozen=True)
class Bag:
    """The winner, and the requests of its complete repeats, whose folders hold their weights."""

    winner: Finalist
    repeats: tuple[FitRequest, ...]


@dataclass(frozen=True)
class Averaged:
    """What averaging brought on people whom the averaged models had left out."""

    models: int
    """Averaged for each person."""
    difference: ModelDifference
    """The mean of these models minus one repeat alone."""
    fitted: Fitted
    """On their mean."""


def find_bag(run: SearchRun, faces: FaceDataset) -> Bag:
    """Find the winner and its repeats.

    Raises:
        CallError: no winner was chosen by repeats.
        Missing: weights of a repeat were not kept.
    """
    choice, trials = read_choice(run.record()), records(run)
    if choice is None or choice.winner is None:
        raise CallError(
            f"--bag averages the winner and its repeats, but {run.name} has no winner that was chosen by repeats. "
            "Search with --finalists, or name a --trial."
        )
    chosen = [trial for trial in trials if trial.trial_id == choice.winner_id]
    alone = replace(choice.design, finalists=1)
    (winner,) = (with_end(run, one) for one in read_finalists(run, chosen, faces, alone))
    done = {one.repeat for one in winner.repeats}
    requests = repeat_requests(run, chosen, faces, alone, cpus=1, gpus=0.0)
    repeats = tuple(request for request in requests if request.repeat in done)
    for request in repeats:
        if not has_weights(request.checkpoint_folder):
            raise Missing(
                f"{request.checkpoint_folder} has no weights of {request.label}: they are kept from this version on, "
                "and only those of the winner. Search again under another --name for a bag."
            )
    return Bag(winner, repeats)


def write_bag(run: SearchRun, faces: FaceDataset, bag: Bag, out: Path, *, overwrite: bool) -> Averaged:
    """Write the bag as a bundle with its calibration, and what averaging brought.

    Raises RunError where weights are damaged, or those of frozen stages cannot be had.
    """
    weight = 1 / (1 + len(bag.repeats))
    trained = [model_of(run, bag.winner, weight), *(_model_of(request, weight) for request in bag.repeats)]
    end = bag.winner.to_end or bag.winner
    fits = [{"epoch": end.best_epoch, "validation_f1": end.validation_f1}] + [
        {"fit": request.trial_id, "repeat": one.repeat + 1, "epoch": one.best_epoch, "validation_f1": one.f1}
        for request, one in zip(bag.repeats, bag.winner.repeats, strict=True)
    ]
    about = [{"run": run.name, "trial": bag.winner.trial_id, "weight": weight, **fit} for fit in fits]
    export_classifiers(out, trained, scores={"classifiers": about}, faces=faces, overwrite=overwrite)
    found = averaged(bag.winner, faces, _own_probabilities(out, faces))
    note_fitted(out, *found.fitted)
    note_scores(out, {"left_out": {"models": found.models, **_difference(found)}})
    return found


def averaged(winner: Finalist, faces: FaceDataset, own: NDArray[np.float64]) -> Averaged:
    """Compare the mean of the models that left a validation person out with one repeat alone.

    Args:
        own: (n, 18) probabilities of the winner's own model for the n scored photos of the validation people.
    """
    photos = faces.photos.iloc[scored_rows(faces, "validation")]
    keys, truth = photos["key"].tolist(), photos["label"].to_numpy(np.int64)  # n each
    total, models = own.copy(), np.ones(len(keys), np.int64)  # (n, 18), (n,)
    rows, alone = [], []  # of each repeat the photos that it left out, and the classes that it named
    for repeat in winner.repeats:
        places = {key: place for place, key in enumerate(repeat.keys)}
        there = np.array([row for row, key in enumerate(keys) if key in places], np.int64)  # (m,) of the n
        at = [places[keys[row]] for row in there]
        total[there] += np.exp(repeat.log_probabilities[at].astype(np.float64))
        models[there] += 1
        rows.append(there)
        alone.append(repeat.classes[at])
    mean, of, left_out, prior = total / models[:, None], np.concatenate(rows), models > 1, prior_of(faces)
    person, stratum = people_of(keys, faces)
    answered = Predicted(mean, truth, person).rows(left_out)
    together = np.empty(len(keys), np.int64)
    together[left_out] = cross_fitted_classes(answered, prior)
    pair = Repeat(truth[of], np.concatenate(alone), together[of], person[of], stratum[of])
    least = int(models[of].min())
    who = f"the mean of {least} models for validation people whom they had left out"
    calibration = fit_calibration(answered.probabilities, answered.truth, who)
    return Averaged(least, model_difference(pair), Fitted(calibration, fit_decision(answered, prior, who)))


def summary(bag: Bag, found: Averaged) -> list[str]:
    """Say what the bag is and what averaging brought, in lines for a terminal."""
    difference, models = found.difference, 1 + len(bag.repeats)
    return [
        f"A bag of {models} models: trial {bag.winner.trial_id} and its {counted(len(bag.repeats), 'repeat')}. "
        f"A photo is answered by all {models}.",
        f"Averaging {found.models} of them changed macro F1 by {difference.mean:+.4f} [{difference.low:+.4f}, "
        f"{difference.high:+.4f}] on {counted(difference.people, 'validation person', 'validation people')} whom they "
        f"had left out: {difference.verdict}. The whole bag has no validation score, for some of its models trained "
        "on each of these people.",
    ]


def _model_of(request: FitRequest, weight: float) -> Trained:
    recipe, _, moving = load_best(request.checkpoint_folder)
    return Trained(recipe, complete_states(recipe, moving), weight)


def _own_probabilities(folder: Path, faces: FaceDataset) -> NDArray[np.float64]:
    """Predict (n, 18) by the bag's first classifier, the winner's own, for the validation people's scored photos."""
    bundle = read_bundle(folder)
    first = replace(bundle.classifiers[0], weight=1.0)
    predictor = Predictor(replace(bundle, classifiers=(first,), calibration=None))
    return predictor.probabilities(faces.photos.iloc[scored_rows(faces, "validation")]["file"].tolist())


def _difference(found: Averaged) -> dict[str, Any]:
    return {**asdict(found.difference), "verdict": found.difference.verdict}
