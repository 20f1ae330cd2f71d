"""A bag of models: a search's winner, its repeats and other trials as one bundle, whose probabilities are averaged.

They are trained already. A photo is answered by all of them, which takes so many times the work. A search hands the bag
over where averaging pays on people whom the averaged models had left out (`tune.selection.averaging`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, Damaged, Missing
from maskcls.serving.bundle import read_bundle, read_manifest
from maskcls.serving.export import Trained, export_classifiers
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.predictor import Predictor
from maskcls.training.checkpoint import best_predictions, load_best
from maskcls.training.checkpoint_files import has_weights, weights_alone
from maskcls.training.fit_data import scored_rows
from tune.fitting.request import FitRequest
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.averaging import Averaged, Other, averaged
from tune.selection.bundle_predictions import LEFT_OUT, keep_predictions, winner_predictions
from tune.selection.choice import write_choice
from tune.selection.export import complete_states, export_winner, model_of
from tune.selection.finalists import Design, Finalist, read_finalists, repeat_requests
from tune.selection.finish import finish_request, with_end
from tune.selection.fitted import ITS_EPOCH
from tune.selection.record import BagScores, read_choice

log = logging.getLogger("maskcls")


@dataclass(frozen=True)
class Bag:
    """What a bag may hold."""

    winner: Finalist
    repeats: tuple[FitRequest, ...]
    """Of its complete repeats, whose folders hold their weights."""
    others: tuple[Other, ...]
    """Other trials whose weights are kept."""


def winner_of(run: SearchRun, faces: FaceDataset, wanted: str) -> tuple[Finalist, Design]:
    """The winner of a run with its repeats, and the design of the choice; the best trial, where it was averaged with
    others because no repeat is complete.

    Args:
        wanted: what it is for, as the beginning of a sentence.

    Raises CallError where there is none.
    """
    choice = read_choice(run.record())
    found = choice and (choice.winner_id or (choice.bag and choice.bag.trial))
    if choice is None or not found:
        raise CallError(
            f"{wanted}, but {run.name} has no winner that was chosen by repeats. "
            "Search with --finalists, or name a --trial."
        )
    chosen = [trial for trial in records(run) if trial.trial_id == found]
    (winner,) = (with_end(run, one) for one in read_finalists(run, chosen, faces, replace(choice.design, finalists=1)))
    return winner, choice.design


def find_bag(run: SearchRun, faces: FaceDataset) -> Bag:
    """Find what a bag may hold. Raises as `winner_of` does, and Missing where no weights of repeats are there."""
    winner, design = winner_of(run, faces, "--bag averages the winner with others")
    bag = bag_of(run, faces, winner, design)
    if winner.repeats and not bag.repeats:
        raise Missing(
            f"No weights of the repeats of trial {winner.trial_id} are in {run.finalists}: they are kept from this "
            "version on, and only those of the winner. Search again under another --name for a bag."
        )
    return bag


def bag_of(run: SearchRun, faces: FaceDataset, winner: Finalist, design: Design) -> Bag:
    """The bag of a winner, with those of its repeats whose weights were kept: it may have won only by later ones."""
    chosen = [trial for trial in records(run) if trial.trial_id == winner.trial_id]
    done = {one.repeat: one for one in winner.repeats}
    requests = repeat_requests(run, chosen, faces, replace(design, finalists=1), cpus=1, gpus=0.0)
    kept = [one for one in requests if one.repeat in done and has_weights(one.checkpoint_folder)]
    winner = replace(winner, repeats=tuple(done[one.repeat] for one in kept if one.repeat is not None))
    repeats = tuple(kept)
    return Bag(winner, repeats, tuple(_others(run, faces, winner)))


def _others(run: SearchRun, faces: FaceDataset, winner: Finalist) -> Iterator[Other]:
    """The search's other trials, the best first, whose best epoch's weights and predictions are kept, however they
    ended: trained to their ends, as finalists are, as the search left them, or before they diverged. One that was at
    work when the search's time was up may have ended since, of which the study knows nothing."""
    validated = faces.rows("validation")
    scored = np.isin(validated, scored_rows(faces, "validation"))  # a trial predicts those without labels as well
    for trial in leaderboard.ranked(records(run)):
        if trial.trial_id == winner.trial_id or not trial.recipe:
            continue
        to_end = finish_request(run, trial, cpus=1, gpus=0.0).checkpoint_folder
        folder = to_end if weights_alone(to_end) else run.trial(trial.trial_id)
        try:
            kept = best_predictions(folder)
        except Damaged as error:
            log.warning("Trial %s takes no part in the bag. %s", trial.trial_id, error)
            continue
        if kept is not None and len(kept[1]) == len(validated):
            result, log_probs = kept
            yield Other(trial.trial_id, result.epoch, result.scores.f1, np.exp(log_probs[scored]), folder)


def export_bag(run: SearchRun, faces: FaceDataset, bag: Bag, out: Path, *, overwrite: bool) -> Averaged:
    """Write the bag as a bundle with its calibration, and what averaging brought.

    Raises RunError where weights are damaged, or those of frozen stages cannot be had.
    """
    with tempfile.TemporaryDirectory() as place:
        export_winner(run, bag.winner, out=Path(place) / "winner", calibrates=False)
        alone = Predictor(replace(read_bundle(Path(place) / "winner"), calibration=None))
        # From the files: a pixel store would hold all other photos as well.
        own = alone.probabilities(faces.photos.iloc[scored_rows(faces, "validation")]["file"].tolist())
    found = averaged(bag.winner, faces, own, bag.others)
    _write(run, faces, bag, found, out, overwrite=overwrite)
    return found


def hand_over(run: SearchRun, faces: FaceDataset, winner: Finalist, design: Design) -> Averaged | None:
    """Where averaging pays, replace what best/ holds, the winner's own model, by its bag. Notes in search.json what
    averaging brought; None where there is nobody to tell it by, or nothing to average.

    Args:
        winner: or the best trial, without repeats, where no repeat is complete.

    Raises DataError, RunError where predictions, photos or weights cannot be read; best/ then stays as it is.
    """
    stored = winner_predictions(run, faces, "validation", predicts=True)
    if stored is None:
        return None
    bag, own = bag_of(run, faces, winner, design), np.exp(stored[2].astype(np.float64))
    found = averaged(bag.winner, faces, own, bag.others)
    if found.others and bag.repeats and not found.pays:  # then they may do harm
        found = averaged(bag.winner, faces, own)
    if not (bag.repeats or found.others):
        return None
    if found.pays:
        _write(run, faces, bag, found, run.best, overwrite=True)
        digest = bundle_digest(read_manifest(run.best))
        keep_predictions(run, faces, "validation", digest, found.probabilities)
    made = read_choice(run.record())
    if made is not None:
        write_choice(run, replace(made, bag=_scores_of(bag, found)))
    return found


def _scores_of(bag: Bag, found: Averaged) -> BagScores:
    others = tuple(one.trial_id for one in found.others)
    repeats = len(bag.repeats)
    models = 1 + repeats + len(others)
    return BagScores(models, found.models, found.difference, bag.winner.trial_id, repeats, others)


def _write(run: SearchRun, faces: FaceDataset, bag: Bag, found: Averaged, out: Path, *, overwrite: bool) -> None:
    weight = 1 / (1 + len(bag.repeats) + len(found.others))
    trained = [model_of(run, bag.winner, weight)]
    trained += [_model_in(request.checkpoint_folder, weight) for request in bag.repeats]
    trained += [_model_in(other.folder, weight) for other in found.others]
    origin = {"run": run.name, "trial": bag.winner.trial_id}
    end = bag.winner.to_end or bag.winner
    own = {**origin, "weight": weight, "epoch": end.best_epoch, "validation_f1": end.validation_f1}
    of_repeats = [
        {**own, "fit": request.trial_id, "repeat": one.repeat + 1, "epoch": one.best_epoch, "validation_f1": one.f1}
        for request, one in zip(bag.repeats, bag.winner.repeats, strict=True)
    ]
    of_others = [
        {**own, "trial": one.trial_id, "epoch": one.best_epoch, "validation_f1": one.validation_f1}
        for one in found.others
    ]
    export_classifiers(
        out,
        trained,
        scores={
            **origin,
            "epoch": end.best_epoch,
            "validation": found.scores.to_dict(),
            ITS_EPOCH: end.validation_f1,
            "classifiers": [own, *of_repeats, *of_others],
            LEFT_OUT: {"models": found.models, **asdict(found.difference), "verdict": found.difference.verdict},
        },
        faces=faces,
        calibration=found.fitted.calibration,
        decision=found.fitted.decision,
        overwrite=overwrite,
    )


def _model_in(folder: Path, weight: float) -> Trained:
    recipe, _, moving = load_best(folder)
    return Trained(recipe, complete_states(recipe, moving), weight)


def summary(bag: Bag, found: Averaged) -> list[str]:
    """Say what the bag is and what averaging brought, in lines for a terminal."""
    scored = _scores_of(bag, found)
    return [
        f"A bag of {scored.models} models: {scored.members_text}. A photo is answered by all {scored.models}.",
        f"{scored.gain_text} The whole bag has no validation score where some of its models trained on each of these "
        "people, as repeats by folds do.",
    ]
