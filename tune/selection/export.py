"""A search's trial as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from maskcls.data.dataset import FaceDataset
from maskcls.models.model import build_models
from maskcls.recipe import Recipe
from maskcls.serving.bundle import check_writable, export
from maskcls.stores.arrays import CacheOptions
from maskcls.training.checkpoint import load_best
from maskcls.training.fit import complete_state
from tune.runs.folder import SearchRun


def export_trial(run: SearchRun, trial_id: str, out: Path, overwrite: bool = False) -> None:
    """Write a trial's best epoch as a bundle.

    Raises:
        CallError: `out` is in the way.
        RunError: the trial has no finished epoch, its state is damaged, or the weights of its frozen stages cannot be
            had.
    """
    check_writable(out, overwrite=overwrite)  # before weights are loaded, which may take long
    recipe, result, moving = load_best(run.trial(trial_id))
    export(
        out,
        recipe,
        complete_states(recipe, moving),
        scores={"validation": result.scores.to_dict(), "epoch": result.epoch, "run": run.name, "trial": trial_id},
        faces=FaceDataset.load(run.data, CacheOptions(run.path)),  # no pixels are asked for, so no cache either
        overwrite=overwrite,
    )


def complete_states(recipe: Recipe, moving: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Each model's whole state: what was trained, and the frozen stages as their weights or the seed give them."""
    # A checkpoint leaves the frozen stages out: they are loaded again, or drawn from the recipe's seed.
    models = build_models(recipe, pretrained=True)
    return [complete_state(model.state_dict(), best) for model, best in zip(models, moving, strict=True)]
