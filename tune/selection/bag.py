"""The winner of a search and its repeats as one bundle, whose probabilities are averaged: a bag of models.

They are trained already, on other people or from other seeds (Breiman, Bagging Predictors, Machine Learning 24, 1996;
Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles,
NeurIPS 2017). A photo is answered by all of them, which takes so many times the work.

No person was left out by all models of the bag, so the whole bag has no validation score. Its out-of-bag score has
(Breiman, Out-of-bag Estimation, 1996): each validation person is answered by the models that left them out, which are
the trial itself and the repeats that validated on them, one fold's or every seed's. The mean of these models is
compared with such a repeat alone, each with the classes of its decision rule (`maskcls.serving.decision`), which is
fitted without the person. A search hands the bag over where that mean scores higher.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, DataError, Missing
from maskcls.serving.bundle import read_bundle, read_manifest
from maskcls.serving.calibration import fit_calibration
from maskcls.serving.decision import Predicted, cross_fitted_classes, fit_decision, prior_of
from maskcls.serving.export import Trained, export_classifiers
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.predictor import Predictor
from maskcls.text import counted
from maskcls.training.checkpoint import load_best
from maskcls.training.checkpoint_files import has_weights
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import Scores, scores
from tune.fitting.request import FitRequest
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.bundle_predictions import LEFT_OUT, keep_predictions, winner_predictions
from tune.selection.choice import write_choice
from tune.selection.export import complete_states, export_winner, model_of
from tune.selection.finalists import Design, Finalist, people_of, read_finalists, repeat_requests
from tune.selection.finish import with_end
from tune.selection.fitted import ITS_EPOCH, Fitted
from tune.selection.record import BagScores, read_choice
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
    probabilities: NDArray[np.float64]
    """(n, 18) for the validation people's n scored photos: the mean of the models that had left the person out."""
    scores: Scores
    """Of that mean with its decision rule, for people whom the winner and a repeat had left out."""

    @property
    def pays(self) -> bool:
        """Whether the bag is better than one of its models, as far as the people who were left out can tell."""
        return self.difference.mean > 0


def winner_of(run: SearchRun, faces: FaceDataset, wanted: str) -> tuple[Finalist, Design]:
    """The winner of a run with its repeats, and the design of the choice.

    Args:
        wanted: what it is for, as the beginning of a sentence.

    Raises CallError where no winner was chosen by repeats.
    """
    choice = read_choice(run.record())
    if choice is None or choice.winner is None:
        raise CallError(
            f"{wanted}, but {run.name} has no winner that was chosen by repeats. "
            "Search with --finalists, or name a --trial."
        )
    chosen = [trial for trial in records(run) if trial.trial_id == choice.winner_id]
    (winner,) = (with_end(run, one) for one in read_finalists(run, chosen, faces, replace(choice.design, finalists=1)))
    return winner, choice.design


def find_bag(run: SearchRun, faces: FaceDataset) -> Bag:
    """Find the winner and its repeats. Raises CallError as `winner_of` does, and Missing as `bag_of` does."""
    return bag_of(run, faces, *winner_of(run, faces, "--bag averages the winner and its repeats"))


def bag_of(run: SearchRun, faces: FaceDataset, winner: Finalist, design: Design) -> Bag:
    """The bag of a winner. Raises Missing where weights of a repeat were not kept."""
    chosen = [trial for trial in records(run) if trial.trial_id == winner.trial_id]
    done = {one.repeat for one in winner.repeats}
    requests = repeat_requests(run, chosen, faces, replace(design, finalists=1), cpus=1, gpus=0.0)
    repeats = tuple(request for request in requests if request.repeat in done)
    for request in repeats:
        if not has_weights(request.checkpoint_folder):
            raise Missing(
                f"{request.checkpoint_folder} has no weights of {request.label}: they are kept from this version on, "
                "and only those of the winner. Search again under another --name for a bag."
            )
    return Bag(winner, repeats)


def export_bag(run: SearchRun, faces: FaceDataset, bag: Bag, out: Path, *, overwrite: bool) -> Averaged:
    """Write the bag as a bundle with its calibration, and what averaging brought.

    Raises RunError where weights are damaged, or those of frozen stages cannot be had.
    """
    with tempfile.TemporaryDirectory() as place:
        export_winner(run, bag.winner, out=Path(place) / "winner", calibrates=False)
        alone = Predictor(replace(read_bundle(Path(place) / "winner"), calibration=None))
        # From the files: a pixel store would hold all other photos as well.
        own = alone.probabilities(faces.photos.iloc[scored_rows(faces, "validation")]["file"].tolist())
    found = averaged(bag.winner, faces, own)
    _write(run, faces, bag, found, out, overwrite=overwrite)
    return found


def hand_over(run: SearchRun, faces: FaceDataset, winner: Finalist, design: Design) -> Averaged | None:
    """Where averaging pays, replace what best/ holds, the winner's own model, by its bag. Notes in search.json what
    averaging brought; None where there is nobody to tell it by.

    Raises DataError, RunError where predictions, photos or weights cannot be read; best/ then stays as it is.
    """
    bag = bag_of(run, faces, winner, design)
    own = winner_predictions(run, faces, "validation", predicts=True)
    if own is None or not bag.repeats:
        return None
    found = averaged(winner, faces, np.exp(own[2].astype(np.float64)))
    if found.pays:
        _write(run, faces, bag, found, run.best, overwrite=True)
        digest = bundle_digest(read_manifest(run.best))
        keep_predictions(run, faces, "validation", digest, found.probabilities)
    made = read_choice(run.record())
    if made is not None:
        write_choice(run, replace(made, bag=BagScores(1 + len(bag.repeats), found.models, found.difference)))
    return found


def _write(run: SearchRun, faces: FaceDataset, bag: Bag, found: Averaged, out: Path, *, overwrite: bool) -> None:
    weight = 1 / (1 + len(bag.repeats))
    trained = [model_of(run, bag.winner, weight), *(_model_of(request, weight) for request in bag.repeats)]
    end = bag.winner.to_end or bag.winner
    fits = [{"epoch": end.best_epoch, "validation_f1": end.validation_f1}] + [
        {"fit": request.trial_id, "repeat": one.repeat + 1, "epoch": one.best_epoch, "validation_f1": one.f1}
        for request, one in zip(bag.repeats, bag.winner.repeats, strict=True)
    ]
    origin = {"run": run.name, "trial": bag.winner.trial_id}
    export_classifiers(
        out,
        trained,
        scores={
            **origin,
            "epoch": end.best_epoch,
            "validation": found.scores.to_dict(),
            ITS_EPOCH: end.validation_f1,
            "classifiers": [{**origin, "weight": weight, **fit} for fit in fits],
            LEFT_OUT: {"models": found.models, **asdict(found.difference), "verdict": found.difference.verdict},
        },
        faces=faces,
        calibration=found.fitted.calibration,
        decision=found.fitted.decision,
        overwrite=overwrite,
    )


def averaged(winner: Finalist, faces: FaceDataset, own: NDArray[np.float64]) -> Averaged:
    """Compare the mean of the models that left a validation person out with one repeat alone.

    Args:
        own: (n, 18) probabilities of the winner's own model for the n scored photos of the validation people.

    Raises DataError where no repeat left one of these people out.
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
    if not sum(map(len, rows)):
        raise DataError(
            f"What averaging brings to trial {winner.trial_id} is not known: its repeats left no validation person out."
        )
    mean, of, left_out, prior = total / models[:, None], np.concatenate(rows), models > 1, prior_of(faces)
    person, stratum = people_of(keys, faces)
    answered = Predicted(mean, truth, person).rows(left_out)
    together = np.empty(len(keys), np.int64)
    together[left_out] = cross_fitted_classes(answered, prior)
    pair = Repeat(truth[of], np.concatenate(alone), together[of], person[of], stratum[of])
    least = int(models[of].min())
    who = f"the mean of {least} models for validation people whom they had left out"
    calibration = fit_calibration(answered.probabilities, answered.truth, who)
    fitted = Fitted(calibration, fit_decision(answered, prior, who))
    return Averaged(least, model_difference(pair), fitted, mean, scores(truth[left_out], together[left_out]))


def summary(bag: Bag, found: Averaged) -> list[str]:
    """Say what the bag is and what averaging brought, in lines for a terminal."""
    models = 1 + len(bag.repeats)
    scored = BagScores(models, found.models, found.difference)
    return [
        f"A bag of {models} models: trial {bag.winner.trial_id} and its {counted(len(bag.repeats), 'repeat')}. "
        f"A photo is answered by all {models}.",
        f"{scored.gain_text} The whole bag has no validation score, for some of its models trained on each of these "
        "people.",
    ]


def _model_of(request: FitRequest, weight: float) -> Trained:
    recipe, _, moving = load_best(request.checkpoint_folder)
    return Trained(recipe, complete_states(recipe, moving), weight)
