"""Which models of a search are averaged, and what averaging them brings on people whom they had left out.

They are the winner's own, those of its repeats, and of other trials those that help: trained already, on other people,
from other seeds, or by other recipes (Breiman, Bagging Predictors, Machine Learning 24, 1996; Lakshminarayanan, Pritzel
and Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, NeurIPS 2017).

Where repeats are by folds, no person was left out by all models, so that their mean has no validation score. Its
out-of-bag score has (Breiman, Out-of-bag Estimation, 1996): each validation person is answered by the models that left
them out, which are those of the trials and of the repeats that validated on them, one fold's or every seed's.

Other trials are selected greedily, as by Caruana et al. (Ensemble Selection from Libraries of Models, ICML 2004), but
by the log likelihood of the validation people: where few of them decide, macro F1 moves by more than two models differ
(docs/anytime.md). In the score of what they bring, each part of the people is answered by the mean that the other
parts selected. Still, all validation people chose the trials' epochs, and whose weights are kept: the score is as
optimistic as any trial's, and only the holdout's is not. Where there is no repeat, the trial that the mean is compared
with is the best one by these people, which flatters it, and not the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskcls import seeds
from maskcls.serving.calibration import fit_calibration
from maskcls.serving.decision import Predicted, cross_fitted_classes, fit_decision, prior_of
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import Scores, scores
from tune.selection.ensembles import MIN_PROBABILITY, TIE
from tune.selection.finalists import Finalist, people_of
from tune.selection.fitted import Fitted
from tune.statistics.paired import ModelDifference, Repeat, model_difference

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_OTHERS = 3
"""Of other trials so many are averaged at most: each takes further work for every photo."""
PARTS = 5
"""Parts of the validation people, each left out in turn where something is selected by the others."""


@dataclass(frozen=True, eq=False)
class Other:
    """Another trial of the search, which left the validation people out as the winner's did."""

    trial_id: str
    best_epoch: int
    validation_f1: float
    probabilities: Floats
    """(n, 18) of its best epoch for the validation people's n scored photos."""
    folder: Path
    """That holds its weights."""


@dataclass(frozen=True)
class Averaged:
    """What averaging brought on people whom the averaged models had left out."""

    others: tuple[Other, ...]
    """The other trials that were selected, by all validation people."""
    models: int
    """Averaged for each person, at least."""
    difference: ModelDifference
    """The mean of these models minus one repeat alone, or minus the winner where no repeat left these people out."""
    fitted: Fitted
    """On their mean."""
    probabilities: Floats
    """(n, 18) for the validation people's n scored photos: the mean of the models that had left the person out."""
    scores: Scores
    """Of that mean with its decision rule, for people whom the winner and, if there is any, a repeat had left out."""

    @property
    def pays(self) -> bool:
        """Whether the bag is better than one of its models, as far as the people who were left out can tell."""
        return self.difference.mean > 0


def averaged(winner: Finalist, faces: FaceDataset, own: Floats, others: Sequence[Other] = ()) -> Averaged:
    """Compare the mean of the models that left a validation person out with one of them alone.

    Args:
        own: (n, 18) probabilities of the winner's own model for the n scored photos of the validation people.
        others: trials that may be averaged, too.

    Where no repeat left one of these people out, as with few people and not all folds, nothing is known of repeats in
    the mean: it is compared with the winner's own model.
    """
    photos = faces.photos.iloc[scored_rows(faces, "validation")]
    keys, truth = photos["key"].tolist(), photos["label"].to_numpy(np.int64)  # n each
    person, stratum = people_of(keys, faces)
    prior = prior_of(faces)
    alone = _alone(winner, keys) or _Alone.of(Predicted(own, truth, person), prior)
    base = (own + alone.summed) / (1 + alone.models)[:, None]  # (n, 18)
    parts = (parts_of(faces) if others else None) or {}
    of_parts = np.array([parts.get(one, 0) for one in person], np.int64)  # (n,)
    taken, mean, of_others = select(base, 1 + len(winner.repeats), others, truth, of_parts)
    left_out = np.zeros(len(keys), bool)  # (n,)
    left_out[alone.rows] = True
    answered = Predicted(mean, truth, person).rows(left_out)
    together = np.empty(len(keys), np.int64)
    together[left_out] = cross_fitted_classes(answered, prior)
    of = alone.rows
    pair = Repeat(truth[of], alone.classes, together[of], person[of], stratum[of])
    least = 1 + int((alone.models + of_others)[of].min())
    who = f"the mean of {least} {'or more ' if taken else ''}models for validation people whom they had left out"
    calibration = fit_calibration(answered.probabilities, answered.truth, who)
    fitted = Fitted(calibration, fit_decision(answered, prior, who))
    of_mean = scores(truth[left_out], together[left_out])
    return Averaged(tuple(taken), least, model_difference(pair), fitted, mean, of_mean)


@dataclass(frozen=True)
class _Alone:
    """What single models answer that left people out: m answers for the n photos, some photos several times."""

    summed: Floats
    """(n, 18) probabilities of the winner's repeats that left the person out, added up."""
    models: Integers
    """(n,) how many these are."""
    rows: Integers
    """(m,) the photo of each answer, 0 to n - 1."""
    classes: Integers
    """(m,) the class that it names."""

    @classmethod
    def of(cls, own: Predicted, prior: Floats) -> _Alone:
        """Of the winner's own model, with its decision rule, where no repeat left these people out."""
        n = len(own.truth)
        return cls(np.zeros((n, 18)), np.zeros(n, np.int64), np.arange(n), cross_fitted_classes(own, prior))


def _alone(winner: Finalist, keys: Sequence[str]) -> _Alone | None:
    """Of the winner's repeats, for the photos with these n keys; None where none of them left one of these out."""
    summed, models = np.zeros((len(keys), 18)), np.zeros(len(keys), np.int64)
    rows, classes = [], []
    for repeat in winner.repeats:
        places = {key: place for place, key in enumerate(repeat.keys)}
        there = np.array([row for row, key in enumerate(keys) if key in places], np.int64)
        at = [places[keys[row]] for row in there]
        summed[there] += np.exp(repeat.log_probabilities[at].astype(np.float64))
        models[there] += 1
        rows.append(there)
        classes.append(repeat.classes[at])
    if not sum(map(len, rows)):
        return None
    return _Alone(summed, models, np.concatenate(rows), np.concatenate(classes))


def select(
    base: Floats, size: int, others: Sequence[Other], truth: Integers, parts: Integers
) -> tuple[list[Other], Floats, Integers]:
    """Select other trials to average with the `size` models whose mean is `base`, (n, 18); each counts as one model.

    Args:
        truth: (n,) classes.
        parts: (n,) part of the person. Where they are all in one, nobody would be left to tell what a selection
            brings, and nothing is selected.

    Returns the trials, the mean, (n, 18), in which each part of the people is answered by what the other parts
    selected, and how many trials these were, (n,).
    """
    mean, selected = base.copy(), np.zeros(len(truth), np.int64)
    if not others or len(np.unique(parts)) < 2:
        return [], mean, selected
    by_all = _greedy(base, size, others, truth, np.ones(len(truth), bool))
    if not by_all:  # the bundle has what `base` is the mean of, and so has its score
        return [], mean, selected
    for part in np.unique(parts):
        here = parts == part
        taken = _greedy(base, size, others, truth, ~here)
        mean[here], selected[here] = _joined(base, size, taken)[here], len(taken)
    return by_all, mean, selected


def log_likelihood(probabilities: Floats, truth: Integers, rows: NDArray[np.bool_]) -> float:
    """Mean log probability of the true classes (n,), over the photos where `rows`, (n,), is true."""
    of_truth = probabilities[rows, truth[rows]]
    return float(np.log(np.maximum(of_truth, MIN_PROBABILITY)).mean())


def _greedy(base: Floats, size: int, others: Sequence[Other], truth: Integers, rows: NDArray[np.bool_]) -> list[Other]:
    """The trials that raise the likelihood most, one after the other, as long as one raises it."""
    taken: list[Other] = []
    best = log_likelihood(base, truth, rows)
    while len(taken) < MOST_OTHERS:
        left = [one for one in others if one not in taken]
        found = [log_likelihood(_joined(base, size, [*taken, one]), truth, rows) for one in left]
        if not found or max(found) <= best + TIE:
            break
        best = max(found)
        taken.append(left[found.index(best)])
    return taken


def _joined(base: Floats, size: int, taken: Sequence[Other]) -> Floats:
    mean: Floats = (size * base + sum(one.probabilities for one in taken)) / (size + len(taken))
    return mean


def parts_of(faces: FaceDataset) -> dict[str, int] | None:
    """The part of each validation person: PARTS of them, or fewer for fewer people, stratified as folds are.

    None where they can't be divided.
    """
    from maskcls.data import splits

    people = faces.split.validation
    # People who share a photo are in one part.
    n = min(PARTS, splits.count_groups(faces.photos, people))
    if n < 2:
        return None
    # From the people alone, so that runs on the same split have the same parts.
    seed = seeds.seed_of(int(faces.split.digest, 16), PARTS)
    drawn = splits.folds(faces.photos, n, seed, people)
    return {person: number for number, fold in enumerate(drawn) for person in fold.validation}
