"""`python -m maskcls.train`: one fit of one recipe, and its best epoch as a bundle, without Ray.

A killed run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.command_line.options import stated
from maskcls.errors import CallError
from maskcls.machine import resolve_device
from maskcls.stores.cache_options import CacheOptions

if TYPE_CHECKING:
    from maskcls.recipe import Recipe

Out = Annotated[
    Path, typer.Option("--out", help="Folder for the bundle; must not exist, or be a bundle with --overwrite.")
]
Trial = Annotated[
    str | None,
    typer.Option(
        "--trial",
        help="RUN/ID: as python -m tune.reproduce --trial, which replaces it.",
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
BESIDE_TRIAL = (
    *("out", "trial", "cache", "shared_cache", "pixel_store_gb", "feature_store_gb"),
    *("device", "loader_workers", "overwrite"),
)
"""Options that a call with --trial may give; all others come from the run."""


def main(
    context: typer.Context,
    out: Out,
    trial: Trial = None,
    data: cli.Data = None,
    preset: cli.Preset = "faces-2026",
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
    people_from: cli.PeopleFrom = None,
    extra: cli.Extra = None,
    max_megapixels: cli.MaxMegapixels = None,
    max_aspect: cli.MaxAspect = None,
    cache: cli.Cache = None,
    shared_cache: cli.SharedCache = False,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
    device: Device = None,
    loader_workers: LoaderWorkers = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Train one recipe, and export its best epoch by validation macro F1 as a bundle.

    A killed run goes on from its last epoch when the same command is given again.
    """
    from maskcls.serving.export import check_writable

    check_writable(out, overwrite=overwrite)
    if trial is not None:
        _reproduce(context)
        return
    from maskcls.data.dataset import prepare
    from maskcls.data.layouts.scan import check_layouts
    from maskcls.serving.standalone import say_where, train, write_bundle_of
    from maskcls.training.presets import explicit_values

    check_layouts(data, extra)
    explicit = explicit_values(set_, data, image_size=image_size, epochs=epochs, seed=seed, weights=weights)
    recipe = _recipe(preset, scale, explicit, demo=data is None)
    dataset = prepare(
        data,
        corrections=corrections,
        split_file=split,
        split_seed=split_seed,
        skip_bad=skip_bad,
        people_from=people_from,
        extra=extra,
        cache=CacheOptions(cache, pixel_store_gb, feature_store_gb, shared=shared_cache),
        progress=True,
    )
    fit = train(recipe, dataset, out, device or "auto", loader_workers)
    write_bundle_of(fit, dataset, out, overwrite)
    say_where(fit, out)


def _recipe(preset: str, scale: str, explicit: dict[str, Any], *, demo: bool) -> Recipe:
    """The recipe that the call names, printed and checked."""
    from maskcls.models.backbones import check_backbones
    from maskcls.training.presets import base_recipe, resolve_scale

    recipe = base_recipe(preset, resolve_scale(scale, gpu=resolve_device("auto") == "cuda"), explicit, demo=demo)
    typer.echo(
        f"Recipe {recipe.digest}: {preset} with {', '.join(f'{key}={value}' for key, value in explicit.items())}"
    )
    check_backbones(recipe)
    return recipe


def _refuse_beside_trial(context: typer.Context) -> None:
    """Raises CallError that names every given option which the trial's run determines."""
    given = stated(context)
    wrong = [name for name in context.params if name in given and name not in BESIDE_TRIAL]
    if wrong:
        options = {name: "--" + name.rstrip("_").replace("_", "-") for name in (*wrong, *BESIDE_TRIAL)}
        raise CallError(
            "--trial takes recipe, photos and split from the run, so leave out "
            f"{', '.join(options[name] for name in wrong)}. "
            f"Beside it there may be {', '.join(options[name] for name in BESIDE_TRIAL if name != 'trial')}."
        )


def _reproduce(context: typer.Context) -> None:
    """Hand a call with --trial over to the command `tune.reproduce`, which replaces it."""
    typer.echo(
        "maskcls.train --trial is now python -m tune.reproduce --trial; this spelling goes with the next release.",
        err=True,
    )
    _refuse_beside_trial(context)
    reproduce = importlib.import_module("tune.reproduce").main  # by name: maskcls does not import tune
    reproduce(**{name: context.params[name] for name in BESIDE_TRIAL})


if __name__ == "__main__":
    run(main)
