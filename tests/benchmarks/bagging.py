"""`python -m tests.benchmarks.bagging RUN ... --answers CSV`: what a winner brings with and without its repeats.

Nothing is trained. On the photos of the data's eval/ folder, of people whom no search saw, it scores the winner's own
model, the bag of that and its repeats, the repeats alone, and soups: one model with the mean of their weights (Wortsman
et al., Model soups, ICML 2022), of all (uniform), and of those that raise macro F1 on the validation people (greedy;
the repeats have trained on most of these people, so that the greedy choice is flattered). Classes are the likeliest
ones, so that the ways compare without a rule. Each row of the table is a run, which must have been searched with a
--split-seed of its own to count as another one. `ms` is the time of a photo, decoding included, in its way.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from maskcls.cli import run as run_command
from maskcls.data.dataset import FaceDataset
from maskcls.serving.bundle import Bundle, Classifier
from maskcls.serving.predictor import Predictor
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import scores
from tests.benchmarks import report
from tune.runs.folder import SearchRun
from tune.selection.bag import export_bag, find_bag

WAYS = ("winner alone", "bag", "repeats alone", "uniform soup", "greedy soup")


def main(
    runs: Annotated[list[str], typer.Argument(help="Searches whose winners were chosen by repeats.")],
    answers: Annotated[Path, typer.Option(help="CSV of eval's classes: ImageID, ans.")],
    images: Annotated[Path, typer.Option(help="Folder of eval's photos.")],
    out: Annotated[Path, typer.Option(help="JSON of the figures.")] = Path("runs/benchmarks/bagging.json"),
) -> None:
    """Score all ways of all runs, and print a table."""
    known = pd.read_csv(answers, dtype={"ImageID": str})
    files = [str(images / name) for name in known["ImageID"]]
    found = [ways(SearchRun.open(name), files, known["ans"].to_numpy(np.int64), out.parent) for name in runs]
    report.write(out, {name: _summary(name, found) for name in WAYS}, runs=[Path(name).name for name in runs])
    print(table(found))


def ways(run: SearchRun, files: Sequence[str], truth: NDArray[np.int64], place: Path) -> dict[str, tuple[float, float]]:
    """Return macro F1 and milliseconds per photo of each way, for the photos in these files with their classes (n,)."""
    faces = FaceDataset.load(run.data, CacheOptions(run.path))  # photos are read from their files
    folder = place / f"bag-{run.name}"
    of_repeats = replace(find_bag(run, faces), others=())
    export_bag(run, faces, of_repeats, folder, overwrite=True)
    bag = replace(Predictor(folder).bundle, calibration=None, decision=None)
    own, *repeats = bag.classifiers
    made = {
        "winner alone": averaged(bag, [own]),
        "bag": bag,
        "repeats alone": averaged(bag, repeats),
        "uniform soup": averaged(bag, [soup(bag.classifiers)]),
        "greedy soup": averaged(bag, [greedy(bag, faces)]),
    }
    found = {}
    for name, bundle in made.items():
        began = time.monotonic()
        classes = Predictor(bundle).probabilities(list(files)).argmax(axis=1)
        found[name] = (scores(truth, classes).f1, 1000 * (time.monotonic() - began) / len(files))
    return found


def averaged(bag: Bundle, classifiers: Sequence[Classifier]) -> Bundle:
    """The bundle with some classifiers, in equal shares."""
    return replace(bag, classifiers=tuple(replace(each, weight=1 / len(classifiers)) for each in classifiers))


def soup(classifiers: Sequence[Classifier]) -> Classifier:
    """One classifier with the mean of all weights, and of the statistics of BatchNorm."""
    models = copy.deepcopy(classifiers[0].models)
    for number, model in enumerate(models):
        states = [each.models[number].state_dict() for each in classifiers]
        model.load_state_dict({name: _mean([state[name] for state in states]) for name in states[0]})
    return replace(classifiers[0], models=models)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():  # a count of batches
        return tensors[0]
    return torch.stack([tensor.float() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def greedy(bag: Bundle, faces: FaceDataset) -> Classifier:
    """The soup that takes each repeat in turn if macro F1 on the validation people rises."""
    photos = faces.photos.iloc[scored_rows(faces, "validation")]
    truth = photos["label"].to_numpy(np.int64)

    def f1(classifiers: Sequence[Classifier]) -> float:
        predictor = Predictor(averaged(bag, [soup(classifiers)]))
        return scores(truth, predictor.probabilities(photos["file"].tolist()).argmax(axis=1)).f1

    taken = [bag.classifiers[0]]
    best = f1(taken)
    for each in bag.classifiers[1:]:
        if (raised := f1([*taken, each])) > best:
            taken, best = [*taken, each], raised
    return soup(taken)


def _summary(name: str, found: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, Any]:
    f1s, ms = zip(*(one[name] for one in found), strict=True)
    return {"f1": report.summary(f1s), "ms": report.summary(ms)}


def table(found: Sequence[Mapping[str, tuple[float, float]]]) -> str:
    """One row per way, as Markdown: F1, its difference to the winner alone, each with its deviation, and ms."""
    rows = []
    for name in WAYS:
        f1 = report.summary([one[name][0] for one in found])
        more = report.summary([one[name][0] - one[WAYS[0]][0] for one in found])
        ms = report.summary([one[name][1] for one in found])["mean"]
        of_f1 = f"{f1['mean']:.3f} ± {f1['sd']:.3f} | {more['mean']:+.3f} ± {more['sd']:.3f}"
        rows.append(f"| {name} | {len(found)} | {of_f1} | {ms:.1f} |")
    return "\n".join(["| way | n | macro F1 | difference | ms |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    run_command(main)
