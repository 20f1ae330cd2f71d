"""`python -m maskcls.cache list|prune`: decoded photos, frozen features and fetched photos that are kept on disk."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls import cli
from maskcls.cli import new_app, run
from maskcls.errors import CallError
from maskcls.stores.arrays import gb
from maskcls.stores.cache_options import default_cache

if TYPE_CHECKING:
    from maskcls.stores.arrays import StoreInfo

app = new_app()


@app.callback()
def main() -> None:
    """See what is kept on disk of decoded photos, frozen features and photos at addresses, or make room.

    What is needed is made, or fetched, again.
    """


@app.command("list")
def list_(cache: cli.Cache = None) -> None:
    """List the stores, most recently used first."""
    from maskcls.data import pixels
    from maskcls.storage import mirror
    from maskcls.stores import features as feature_stores

    folder = _existing(cache, default_cache())
    photos, features = pixels.list_stores(folder), feature_stores.list_stores(folder)
    fetched = mirror.list_stores(folder)
    if not photos and not features and not fetched:
        print(f"{folder} holds no decoded photos, no frozen features and no fetched photos.")
        return
    _print_table(photos, features, fetched)
    print(
        f"{len(photos)} pixel stores under {folder}: {_total(photos)}; "
        f"{len(features)} feature stores: {_total(features)}; {len(fetched)} folders of fetched photos: "
        f"{_total(fetched)}."
    )


@app.command()
def prune(
    cache: cli.Cache = None,
    pixel_store_gb: Annotated[
        float, typer.Option("--pixel-store-gb", min=0, help="Keep at most this much, GB; 0: nothing.")
    ] = 0.0,
    feature_store_gb: Annotated[
        float, typer.Option("--feature-store-gb", min=0, help="Keep at most this much, GB; 0: nothing.")
    ] = 0.0,
    fetched_gb: Annotated[
        float,
        typer.Option("--fetched-gb", min=0, help="Of photos at addresses keep at most this much, GB; 0: nothing."),
    ] = 0.0,
) -> None:
    """Remove stores, least recently used first; those in use stay."""
    from maskcls.data import pixels
    from maskcls.storage import mirror
    from maskcls.stores import features as feature_stores

    folder = _existing(cache, default_cache())
    for name, stores, budget_gb in (
        ("pixel stores", pixels, pixel_store_gb),
        ("feature stores", feature_stores, feature_store_gb),
        ("folders of fetched photos", mirror, fetched_gb),
    ):
        removed = stores.prune(folder, budget_gb)
        kept = stores.list_stores(folder)
        in_use = sum(store.in_use for store in kept)
        print(
            f"Removed {len(removed)} {name} ({_total(removed)}); "
            f"{len(kept)} are left ({_total(kept)}), {in_use} of them in use."
        )


def _existing(cache: Path | None, default: Path) -> Path:
    """Return the folder asked for, or the default one, which need not exist yet.

    Raises CallError where a folder was named that does not exist.
    """
    if cache is not None and not cache.is_dir():
        raise CallError(f"--cache {cache} is not a folder. Name the folder that a run was given as --cache.")
    return (cache or default).absolute()


def _total(stores: list[StoreInfo]) -> str:

    return gb(sum(store.n_bytes for store in stores))


def _print_table(photos: list[StoreInfo], features: list[StoreInfo], fetched: list[StoreInfo]) -> None:
    from rich.table import Table

    from maskcls.command_line.console import SafeConsole

    table = Table("store", "photos", "of each", "size", "last used", "in use", "of")
    for store in (*photos, *features, *fetched):
        used = datetime.fromtimestamp(store.last_used_s).strftime("%Y-%m-%d %H:%M")
        held = f"{store.photos:,}" if store.photos else "damaged"
        held = held if store.held in (None, store.photos) else f"{store.held:,} of {held}"
        if store in fetched:
            held = f"{store.photos:,}"
        shape = f"{store.shape[1]} px" if store in photos and store.photos else " x ".join(map(str, store.shape[1:]))
        table.add_row(store.name, held, shape, gb(store.n_bytes), used, "yes" if store.in_use else "no", store.source)
    console = SafeConsole()
    if not console.is_terminal:
        console.width = 200  # so that programs that read the table get whole lines
    console.print(table)


if __name__ == "__main__":
    run(app)
