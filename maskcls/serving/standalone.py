"""One fit without a search, in this process: one line per epoch, resumable beside its bundle, then exported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import typer

from maskcls.data.dataset import FaceDataset
from maskcls.machine import default_loader_workers, resolve_device, use_deterministic_kernels
from maskcls.recipe import Recipe
from maskcls.serving.calibration import fit_calibration
from maskcls.serving.decision import Predicted, cross_fitted_classes, fit_decision, prior_of
from maskcls.serving.export import export
from maskcls.text import predict_command
from maskcls.training.checkpoint_files import STATE_FILE
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData, check_trainable, scored_rows
from maskcls.training.metrics import scores
from maskcls.training.result import EpochResult


def checkpoint_folder(out: Path) -> Path:
    """Where the fit of a bundle keeps its checkpoint until the bundle is written."""
    return out.with_name(f".{out.name}.state")


def train(recipe: Recipe, dataset: FaceDataset, out: Path, device: str, loader_workers: int | None) -> Fit:
    """Train a recipe to its last epoch, from the checkpoint beside `out` if there is one, with a line per epoch."""
    check_trainable(recipe, dataset)
    device = resolve_device(device)
    use_deterministic_kernels()
    workers = default_loader_workers(device) if loader_workers is None else loader_workers
    data = FitData.of(dataset, recipe, progress=True)
    fit = Fit(recipe, data, device=device, loader_workers=workers, stores=dataset.feature_stores(shared=False))
    if any(recipe.of_model(tasks).frozen_stages for tasks in recipe.split.models):
        typer.echo(f"What frozen stages give: {fit.frozen_features}.")
    folder = checkpoint_folder(out)
    if fit.resume(folder):
        typer.echo(f"Going on after epoch {len(fit.history)}, from {folder}. The epochs before it were:")
    with kept_on_interrupt(folder):
        for result in fit.epochs(folder):
            typer.echo(epoch_line(result, recipe.epochs))
    return fit


@contextmanager
def kept_on_interrupt(folder: Path) -> Iterator[None]:
    """Say, where the block is interrupted, that what is done is kept in the folder."""
    try:
        yield
    except KeyboardInterrupt:
        if (folder / STATE_FILE).exists():
            typer.echo(f"What is done is kept in {folder}; the same command goes on from there.", err=True)
        raise


def write_bundle_of(fit: Fit, dataset: FaceDataset, out: Path, overwrite: bool, **origin: str) -> None:
    """Write the best epoch as a bundle, and remove the checkpoint.

    `origin` is noted in the bundle beside the scores.
    """
    rows = scored_rows(dataset, "validation")  # (n,)
    photos, prior = dataset.photos.iloc[rows], prior_of(dataset)
    predicted = Predicted(
        np.exp(fit.log_probs(rows)), photos["label"].to_numpy(np.int64), photos["person"].to_numpy(object)
    )
    about = "what it predicted for the validation people, who also chose its epoch"
    decision = fit_decision(predicted, prior, about)
    found = fit.best.scores if decision is None else scores(predicted.truth, cross_fitted_classes(predicted, prior))
    export(
        out,
        fit.recipe,
        fit.best_states(),
        scores={"validation": found.to_dict(), "epoch": fit.best_epoch, **origin},
        faces=dataset,
        calibration=fit_calibration(predicted.probabilities, predicted.truth, about),
        decision=decision,
        overwrite=overwrite,
    )
    shutil.rmtree(checkpoint_folder(out))


def say_where(fit: Fit, out: Path) -> None:
    """Say where the bundle is, and how to predict with it."""
    typer.echo(f"The best epoch, {fit.best_epoch}, is in {out}. To predict:")
    typer.echo(f"  {predict_command(out)}")


def epoch_line(result: EpochResult, epochs: int) -> str:
    """An epoch in one line."""
    tasks = ", ".join(f"{name} {f1:.3f}" for name, f1 in result.scores.task_f1.items())
    return (
        f"epoch {result.epoch}/{epochs}: loss {result.train_loss:.4f}, validation F1 {result.validation_f1:.4f} "
        f"({tasks}), {result.photos_per_second:.0f} photos/s"
    )
