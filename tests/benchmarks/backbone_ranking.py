"""`python -m tests.benchmarks.backbone_ranking`: does the ranking of untrained backbones agree with fine-tuning them?

The weights that can be had here are few, so others are made: small networks of three families are trained on drawn
people for a part of the task (all 18 classes, the mask, the gender, nothing) and for one or four epochs. Each of these
weights is then a backbone, scored by the linear probe and by LogME on other drawn people, and fine-tuned on them. The
last lines are Spearman's rank correlations with the fine-tuned macro F1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import safetensors.torch
import typer
from scipy.stats import spearmanr

from maskcls.cli import run
from maskcls.data.dataset import FaceDataset, prepare
from maskcls.data.demo.folder import draw
from maskcls.machine import set_threads, use_deterministic_kernels
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.presets import base_recipe
from maskcls.training.ranking.probe import probe
from tests.benchmarks import report

FAMILIES = ("test_resnet", "test_efficientnet", "test_convnext")
LEARNT = (("nothing", 0), ("18 classes", 1), ("18 classes", 4), ("mask", 4), ("gender", 4))
"""What weights were trained for, and for how many epochs."""
MEMBERS = {"18 classes": "", "mask": "mask3", "gender": "gender2"}
PHOTOS = 600


class Ranked(NamedTuple):
    """One backbone with its weights: two scores before training, and macro F1 after it."""

    family: str
    learnt: str
    epochs: int
    probe_f1: float
    logme: float
    fine_tuned: float


def main(
    people: Annotated[int, typer.Option(help="Drawn people of each of the two sets.")] = 160,
    epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning.")] = 3,
    out: Annotated[Path, typer.Option(help="JSON record.")] = Path("runs/benchmarks/backbone_ranking.json"),
) -> None:
    """Make weights, rank them, fine-tune them, and print how well the orders agree."""
    set_threads(1)
    use_deterministic_kernels()
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_people(Path(folder), people, seed) for seed in (11, 12))
        found = []
        for weights, family, learnt, trained in _weights(Path(folder), first):
            found.append(_ranked(second, weights, family, learnt, trained, epochs))
            print(*found[-1][:3], *(f"{number:.3f}" for number in found[-1][3:]), flush=True)
    agreement = {
        score: spearmanr([getattr(each, score) for each in found], [each.fine_tuned for each in found]).statistic
        for score in ("probe_f1", "logme")
    }
    print({score: round(float(value), 3) for score, value in agreement.items()}, f"n = {len(found)}")
    report.write(out, {"backbones": [each._asdict() for each in found], **agreement}, people=people, epochs=epochs)


def _people(folder: Path, people: int, seed: int) -> FaceDataset:
    draw(folder / f"faces-{seed}", people, seed)
    return prepare(folder / f"faces-{seed}", cache=CacheOptions(folder / "cache"))


def _weights(folder: Path, faces: FaceDataset) -> Iterator[tuple[Path, str, str, int]]:
    """Make each backbone's weights, and yield the folder that holds them and what they are."""
    for family in FAMILIES:
        for learnt, epochs in LEARNT:
            there = folder / f"{family}-{learnt}-{epochs}".replace(" ", "-")
            there.mkdir()
            member = MEMBERS.get(learnt, "")
            values: dict[str, object] = {"epochs": epochs or 1, "task_split": "three" if member else "single"}
            fit = _fit(faces, family, "none", values)
            if epochs:
                list(fit.epochs())
            at = fit.recipe.split.members.index(member) if member else 0
            state = fit.models[at].backbone.model.state_dict()
            safetensors.torch.save_file(
                {key: value.contiguous() for key, value in state.items()}, there / f"{family}.safetensors"
            )
            yield there, family, learnt, epochs


def _fit(faces: FaceDataset, family: str, weights: str, values: dict[str, object]) -> Fit:
    asked = {"backbone": family, "weights": weights, "image_size": 48, **values}
    recipe = base_recipe("faces-2026", "cpu", {"task_split": "single", **asked}, demo=True)
    return Fit(recipe, FitData.of(faces, recipe))


def _ranked(faces: FaceDataset, weights: Path, family: str, learnt: str, trained: int, epochs: int) -> Ranked:
    fit = _fit(faces, family, str(weights), {"epochs": epochs})
    before = probe(faces, fit.recipe, "cpu", photos=PHOTOS)
    last = list(fit.epochs())[-1]
    return Ranked(family, learnt, trained, before.f1, before.logme, last.validation_f1)


if __name__ == "__main__":
    run(main)
