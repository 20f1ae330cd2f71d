"""`python -m maskcls.train`: one fit of one recipe, and its best epoch as a bundle. No Ray.

    python -m maskcls.train --data DIR --out DIR             a recipe from a preset, scale and options
    python -m maskcls.train --trial runs/first/7 --out DIR   a search's trial again: its curve to the bit, on the same hardware

Either goes on where it was killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.recipe import Recipe
    from maskcls.stores.arrays import CacheOptions
    from maskcls.training.again import Again
    from maskcls.training.conditions import RecordedTrial
    from maskcls.training.fit import Fit
    from maskcls.training.result import EpochResult

Out = Annotated[
    Path, typer.Option("--out", help="Folder for the bundle; must not exist, or be a bundle with --overwrite.")
]
Trial = Annotated[
    str | None,
    typer.Option(
        "--trial",
        help="RUN/ID: train a search's trial again, with its recipe, photos, split, threads and device, and compare its curve.",
        show_default="none",
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N.", show_default="auto; of a trial, the recorded one"),
]
LoaderWorkers = Annotated[
    int | None,
    typer.Option(
        "--loader-workers",
        help="Processes that augment; changes no result.",
        show_default="by cores and device; of a trial, the recorded number",
    ),
]
BESIDE_TRIAL = ("out", "trial", "cache", "pixel_store_gb", "feature_store_gb", "device", "loader_workers", "overwrite")
"""What a call may state that trains a trial again; all else is the run's."""


def main(
    context: typer.Context,
    out: Out,
    trial: Trial = None,
    data: cli.Data = None,
    preset: cli.Preset = "contest-2021",
    set_: cli.Set = None,
    weights: cli.Weights = None,
    scale: cli.Scale = "auto",
    image_size: cli.ImageSize = None,
    epochs: cli.Epochs = None,
    seed: cli.Seed = None,
    split_seed: cli.SplitSeed = 0,
    split: cli.SplitFile = None,
    corrections: cli.Corrections = "published",
    skip_bad: cli.SkipBad = False,
    cache: cli.Cache = None,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
    device: Device = None,
    loader_workers: LoaderWorkers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Train one recipe, or a search's trial again, and export its best epoch by validation macro F1 as a bundle.

    A killed run goes on from its last epoch when the same command is given again. With --trial, the exit status is 1 where an epoch
    that ran as the recorded one did is not equal to it; on other hardware, versions or data the differences are told, and it is 0.
    """
    from maskcls.serving.bundle import check_writable

    check_writable(out, overwrite=overwrite)
    from maskcls.stores.arrays import CacheOptions

    stores = CacheOptions(cache, pixel_store_gb, feature_store_gb)
    if trial is not None:
        _refuse_beside_trial(context)
        _train_again(trial, out, stores, device, loader_workers, overwrite)
        return
    from maskcls.data.dataset import prepare
    from maskcls.presets import explicit_values

    explicit = explicit_values(set_, data, image_size=image_size, epochs=epochs, seed=seed, weights=weights)
    recipe = _recipe(preset, scale, explicit, demo=data is None)
    faces = prepare(
        data,
        corrections=corrections,
        split_file=split,
        split_seed=split_seed,
        skip_bad=skip_bad,
        cache=stores,
        progress=True,
    )
    fit = _train(recipe, faces, _state_folder(out), device or "auto", loader_workers)
    _export(fit, faces, out, overwrite)
    _say_where(fit, out)


def _recipe(preset: str, scale: str, explicit: dict[str, Any], *, demo: bool) -> Recipe:
    """The recipe that the call names, said and checked."""
    from maskcls.machine import resolve_device
    from maskcls.models.backbones import check_backbones
    from maskcls.presets import base_recipe, resolve_scale

    recipe = base_recipe(preset, resolve_scale(scale, gpu=resolve_device("auto") == "cuda"), explicit, demo=demo)
    typer.echo(
        f"Recipe {recipe.digest}: {preset} with {', '.join(f'{key}={value}' for key, value in explicit.items())}"
    )
    check_backbones(recipe)
    return recipe


def _refuse_beside_trial(context: typer.Context) -> None:
    """Raises CallError naming every option that the trial's run has answered already."""
    from maskcls.errors import CallError

    sources = {name: context.get_parameter_source(name) for name in context.params}
    stated = [
        name
        for name, source in sources.items()
        if source is not None and source.name != "DEFAULT" and name not in BESIDE_TRIAL
    ]
    if stated:
        options = {name: "--" + name.rstrip("_").replace("_", "-") for name in (*stated, *BESIDE_TRIAL)}
        raise CallError(
            f"--trial takes recipe, photos and split from the run, so leave out {', '.join(options[name] for name in stated)}. "
            f"Beside it there may be {', '.join(options[name] for name in BESIDE_TRIAL if name != 'trial')}."
        )


def _train_again(
    name: str, out: Path, cache: CacheOptions, device: str | None, loader_workers: int | None, overwrite: bool
) -> None:
    from maskcls.data.dataset import FaceDataset
    from maskcls.errors import RunError
    from maskcls.training.again import Again
    from maskcls.training.conditions import RecordedTrial

    trial = RecordedTrial.open(name)
    faces = FaceDataset.load(trial.run / "data", cache)
    again = Again(trial, faces, _state_folder(out), device=device, loader_workers=loader_workers)
    if again.differences:
        typer.echo(f"Not as {trial.title} ran, so its numbers may come out otherwise: {'; '.join(again.differences)}.")
    typer.echo(
        f"Recipe {trial.recipe.digest}, {trial.title}: {', then '.join(str(s.conditions) for s in trial.segments)}"
    )
    with _saying_what_is_kept(again.folder):
        for answer in again.epochs():
            typer.echo(f"{_line(answer.result, trial.recipe.epochs)}: {answer}")
    wrong = again.wrong()
    _export(again.fit, faces, out, overwrite, run=trial.run.name, trial=trial.trial_id)
    typer.echo(_verdict(again, trial))
    _say_where(again.fit, out)
    if wrong:
        raise RunError(
            f"Epochs {', '.join(map(str, wrong))} are not equal to those recorded, though threads, device, versions, data and code are. "
            f"Weights that changed since ({trial.recipe.weights}) may be why; else {trial.title}, or this machine, is not to be trusted."
        )


def _verdict(again: Again, trial: RecordedTrial) -> str:
    compared = [answer for answer in again.answers if answer.recorded is not None]
    equal = [answer for answer in compared if not answer.unequal]
    more = len(again.answers) - len(compared)
    return f"{len(equal)} of {len(compared)} recorded epochs of {trial.title} are equal to the bit" + (
        f"; {more} more, which it was stopped before." if more else "."
    )


def _state_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.state")


def _train(recipe: Recipe, faces: FaceDataset, folder: Path, device: str, loader_workers: int | None) -> Fit:
    from maskcls.machine import default_loader_workers, resolve_device, use_deterministic_kernels
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData, check_trainable

    check_trainable(recipe, faces)
    device = resolve_device(device)
    use_deterministic_kernels()
    workers = default_loader_workers(device) if loader_workers is None else loader_workers
    data = FitData.of(faces, recipe, progress=True)
    fit = Fit(recipe, data, device=device, loader_workers=workers, stores=faces.feature_stores(shared=False))
    if any(recipe.of_model(tasks).frozen_stages for tasks in recipe.split.models):
        typer.echo(f"What frozen stages give: {fit.frozen_features}.")
    if fit.resume(folder):
        typer.echo(f"Going on after epoch {len(fit.history)}, from {folder}. The epochs before it were:")
    done = len(fit.history)
    with _saying_what_is_kept(folder):
        for result in fit.epochs():
            if result.epoch > done:
                fit.save(folder)
            typer.echo(_line(result, recipe.epochs))
    return fit


@contextmanager
def _saying_what_is_kept(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        from maskcls.training.checkpoint import STATE_FILE

        if (folder / STATE_FILE).exists():
            typer.echo(f"What is done is kept in {folder}; the same command goes on from there.", err=True)
        raise


def _export(fit: Fit, faces: FaceDataset, out: Path, overwrite: bool, **origin: str) -> None:
    import shutil

    from maskcls.serving.bundle import export

    export(
        out,
        fit.recipe,
        fit.best_states(),
        scores={"validation": fit.best.scores.to_dict(), "epoch": fit.best_epoch, **origin},
        faces=faces,
        overwrite=overwrite,
    )
    shutil.rmtree(_state_folder(out))


def _say_where(fit: Fit, out: Path) -> None:
    typer.echo(f"The best epoch, {fit.best_epoch}, is in {out}. To predict:")
    typer.echo(f"  python -m maskcls.predict --bundle {out} --images DIR --out submission.csv")


def _line(result: EpochResult, epochs: int) -> str:
    tasks = ", ".join(f"{name} {f1:.3f}" for name, f1 in result.scores.task_f1.items())
    return (
        f"epoch {result.epoch}/{epochs}: loss {result.train_loss:.4f}, validation F1 {result.validation_f1:.4f} "
        f"({tasks}), {result.photos_per_second:.0f} photos/s"
    )


if __name__ == "__main__":
    run(main)
