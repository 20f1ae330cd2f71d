"""How many labels that were made wrong on purpose an audit finds, by photo and by person.

    python -m tests.benchmarks.audit --data DIR --weights DIR [--backbone resnet10t] [--image-size 112] [--seeds 10]

In each repeat 4 % of the people get swapped mask photos, 4 % the other gender, and 4 % another age group, nobody two of
these. The features of the frozen backbone are computed once (`--backbone gradients`: histograms of gradients and coarse
colours); linear models on them, trained on two thirds of the people with these labels, predict the last third.
Precision is that of a list as long as there are errors (of one kind); labels that were wrong before count against it.
Without --data, drawn faces. Prints a table, and writes a JSON record.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from maskcls.data.dataset import FaceDataset, demo_folder
from maskcls.data.photos import read_photos
from maskcls.data.pixels import default_cache
from maskcls.data.splits import Split
from maskcls.labels import age_group, encode
from maskcls.models.model import build_models
from maskcls.recipe import Recipe
from maskcls.seeds import generator
from maskcls.stores.cache_options import CacheOptions
from tests.benchmarks import report
from tests.tune.audit.linear import features, predicted
from tune.audit.confident import doubts
from tune.audit.findings import ranking
from tune.audit.predictions import OutOfFold

SHARE = 0.04
KINDS = ("swap", "gender", "age")
WRONG_AGES = (20, 45, 68)
"""Years that stand for an age group."""
BLOCK, COMPONENTS = 64, 120
GRADIENTS = "gradients"
"""In place of a backbone's name: features without any weights."""
MEAN, MOST = "mean of the photos' probabilities", "doubtful photos, then the most doubtful one"
TASK = {"gender": ("gender2", "gender"), "age": ("age3", "age_group")}


def main() -> None:
    call = _arguments()
    began = perf_counter()
    photos = read_photos(call.data or demo_folder(default_cache()))
    seen = _features(photos, call)
    measured: dict[str, list[float]] = defaultdict(list)
    for seed in range(call.seeds):
        labelled, wrong = mislabelled(photos, seed)
        for name, value in _measured(predicted(labelled, seen, seed, COMPONENTS), wrong).items():
            measured[name].append(value)
    results = {name: report.summary(values) for name, values in measured.items()}
    width = max(map(len, results))
    print(
        "\n".join(
            f"{name:{width}}  {one['mean']:.3f} +- {one['sd']:.3f}  n {one['n']}" for name, one in results.items()
        )
    )
    errors = round(SHARE * photos["person"].nunique())
    print(f"{len(photos):,} photos, {errors} errors of each kind, {perf_counter() - began:.0f} s.")
    report.write(
        call.out, results, photos=len(photos), errors=errors, backbone=call.backbone, image_size=call.image_size
    )
    print(f"Written to {call.out}.")


def mislabelled(photos: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, Mapping[str, set[str]]]:
    """The photo table with wrong labels, and the people of each of KINDS."""
    wrong, people = photos.copy(), photos["person"].unique()
    n = max(1, round(SHARE * len(people)))
    drawn = generator(seed, len(people)).permutation(people)[: len(KINDS) * n].reshape(len(KINDS), n)
    who = {kind: set(persons) for kind, persons in zip(KINDS, drawn.tolist(), strict=True)}
    is_of = {kind: wrong["person"].isin(who[kind]) for kind in KINDS}
    wrong.loc[is_of["swap"], "mask"] = wrong["mask"].map({0: 0, 1: 2, 2: 1})
    wrong.loc[is_of["gender"], "gender"] = 1 - wrong["gender"]
    rng = generator(seed, len(people), 1)
    for person in sorted(who["age"]):
        rows = wrong["person"] == person
        others = [group for group in range(3) if group != wrong.loc[rows, "age_group"].iloc[0]]
        wrong.loc[rows, "age"] = WRONG_AGES[int(rng.choice(others))]
    wrong["age_group"] = [age_group(age) for age in wrong["age"]]
    columns = (wrong[name].tolist() for name in ("mask", "gender", "age_group"))
    return wrong.assign(label=[encode(*each) for each in zip(*columns, strict=True)]), who


def _measured(predictions: OutOfFold, wrong: Mapping[str, set[str]]) -> dict[str, float]:
    """Precision of each kind's list, as long as there are errors; and of the doubtful labels, precision and recall."""
    values = {}
    for kind, who in wrong.items():
        found = ranking(predictions, kind)
        values[f"{kind}: precision, {MEAN}"] = _precision(found.most_doubtful(len(who)), who)
        if kind in TASK:
            values[f"{kind}: precision, {MOST}"] = _precision(_by_photo(predictions, kind)[: len(who)], who)
        doubtful = {person for person, is_so in zip(found.persons, found.doubts.is_doubtful, strict=True) if is_so}
        values[f"{kind}: doubtful people"] = float(len(doubtful))
        values[f"{kind}: precision of these"] = _precision(list(doubtful), who)
        values[f"{kind}: recall of these"] = len(doubtful & who) / len(who)
    return values


def _precision(found: list[str], who: set[str]) -> float:
    return len(set(found) & who) / max(1, len(found))


def _by_photo(predictions: OutOfFold, kind: str) -> list[str]:
    """Everybody, first those with most doubtful photos; of as many, first whose most doubtful photo has more doubt."""
    task, column = TASK[kind]
    of_photos = doubts(predictions.photos[column].to_numpy(np.int64), predictions.by_photo(task))
    counts = np.bincount(predictions.number, of_photos.is_doubtful)
    most = np.zeros(len(counts))
    np.maximum.at(most, predictions.number, of_photos.score)
    order = np.lexsort((-most, -counts))
    return [str(predictions.people["person"].iloc[place]) for place in order]


def _features(photos: pd.DataFrame, call: argparse.Namespace) -> NDArray[np.float32]:
    """What the frozen backbone gives for each photo, (n, features)."""
    if call.backbone == GRADIENTS:
        return features(photos, default_cache())
    weights = str(call.weights.resolve()) if call.weights else "none"
    recipe = Recipe().override({"backbone": call.backbone, "weights": weights, "image_size": call.image_size})
    (model,) = build_models(recipe, pretrained=weights != "none")
    pixels = FaceDataset(photos, Split((), ()), CacheOptions()).pixels(call.image_size)
    model.eval()
    with torch.no_grad():
        blocks = [
            model.backbone(model.normalise(torch.from_numpy(np.array(pixels[start : start + BLOCK]))))
            for start in range(0, len(pixels), BLOCK)
        ]
    return torch.cat(blocks).flatten(1).numpy()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="contest folder; default: drawn faces")
    parser.add_argument("--weights", type=Path, help="folder of weights; default: random ones")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/audit.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
