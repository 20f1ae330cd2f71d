"""`python -m maskcls.train --data DIR --out DIR`: one fit of one recipe, and its best epoch as a bundle. No Ray."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls import options
from maskcls.cli import run

if TYPE_CHECKING:
    from maskcls.data.facedata import FaceData
    from maskcls.recipe import Recipe
    from maskcls.training.fit import EpochResult, Fit


def main(
    out: Annotated[Path, typer.Option("--out", help="Folder for the bundle; must not exist, or be a bundle with --overwrite.")],
    data: options.Data = None,
    preset: options.Preset = "contest-2021",
    set_: options.Set = None,
    weights: options.Weights = None,
    scale: options.Scale = "auto",
    image_size: options.ImageSize = None,
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    split_seed: options.SplitSeed = 0,
    split: options.SplitFile = None,
    corrections: options.Corrections = "published",
    skip_bad: options.SkipBad = False,
    cache: options.Cache = None,
    pixel_store_gb: options.PixelStoreGb = 20.0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    loader_workers: Annotated[
        int | None, typer.Option("--loader-workers", help="Processes that augment; changes no result.", show_default="by cores and device")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Train one recipe and export its best epoch by validation macro F1 as a bundle.

    A killed run goes on from its last epoch when the same command is given again.
    """
    from maskcls import presets
    from maskcls.data.facedata import prepare
    from maskcls.device import resolve_device
    from maskcls.models.backbones import check_backbones
    from maskcls.serving.bundle import check_writable
    from maskcls.training.fit_data import check_trainable

    check_writable(out, overwrite=overwrite)
    explicit = presets.explicit_values(set_, data, image_size=image_size, epochs=epochs, seed=seed, weights=weights)
    scale = presets.resolve_scale(scale, gpu=resolve_device("auto") == "cuda")
    recipe = presets.base_recipe(preset, scale, explicit, demo=data is None)
    typer.echo(f"Recipe {recipe.digest}: {preset} with {', '.join(f'{key}={value}' for key, value in explicit.items())}")
    check_backbones(recipe)
    faces = prepare(
        data,
        corrections=corrections,
        split_file=split,
        split_seed=split_seed,
        skip_bad=skip_bad,
        cache=cache,
        pixel_store_gb=pixel_store_gb,
        progress=True,
    )
    check_trainable(recipe, faces)
    fit = _train(recipe, faces, _state_folder(out), resolve_device(device), loader_workers)
    _export(fit, faces, out, overwrite)
    typer.echo(f"The best epoch, {fit.best_epoch}, is in {out}. To predict:")
    typer.echo(f"  python -m maskcls.predict --bundle {out} --images DIR --out submission.csv")


def _state_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.state")


def _train(recipe: "Recipe", faces: "FaceData", folder: Path, device: str, loader_workers: int | None) -> "Fit":
    from maskcls.device import default_loader_workers
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData

    workers = default_loader_workers(device) if loader_workers is None else loader_workers
    fit = Fit(recipe, FitData.of(faces, recipe, progress=True), device=device, loader_workers=workers)
    if fit.resume(folder):
        typer.echo(f"Going on after epoch {len(fit.history)}, from {folder}. The epochs before it were:")
    done = len(fit.history)
    try:
        for result in fit.epochs():
            if result.epoch > done:
                fit.save(folder)
            typer.echo(_line(result, recipe.epochs))
    except KeyboardInterrupt:
        if fit.history:
            typer.echo(f"What is done is kept in {folder}; the same command goes on from epoch {len(fit.history)}.", err=True)
        raise
    return fit


def _export(fit: "Fit", faces: "FaceData", out: Path, overwrite: bool) -> None:
    import shutil

    from maskcls.serving.bundle import export

    export(
        out,
        fit.recipe,
        fit.best_states(),
        scores={"validation": fit.best.scores.to_dict(), "epoch": fit.best_epoch},
        faces=faces,
        overwrite=overwrite,
    )
    shutil.rmtree(_state_folder(out))


def _line(result: "EpochResult", epochs: int) -> str:
    tasks = ", ".join(f"{name} {f1:.3f}" for name, f1 in result.scores.task_f1.items())
    return (
        f"epoch {result.epoch}/{epochs}: loss {result.train_loss:.4f}, validation F1 {result.validation_f1:.4f} "
        f"({tasks}), {result.photos_per_second:.0f} photos/s"
    )


if __name__ == "__main__":
    run(main)
