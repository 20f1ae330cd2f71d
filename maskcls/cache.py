"""`python -m maskcls.cache list|prune`: the decoded photos that are kept on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls import options
from maskcls.cli import new_app, run

if TYPE_CHECKING:
    from maskcls.stores import StoreInfo

app = new_app()


@app.callback()
def main() -> None:
    """Decoded photos kept on disk: see them, or make room. They are made again when they are needed."""


@app.command("list")
def list_(cache: options.Cache = None) -> None:
    """List the pixel stores, most recently used first."""
    from maskcls.data.pixels import default_cache, list_stores

    folder = _existing(cache, default_cache())
    stores = list_stores(folder)
    if not stores:
        print(f"{folder} holds no decoded photos.")
        return
    _print_table(stores)
    print(f"{len(stores)} pixel stores under {folder}: {_total(stores)}.")


@app.command()
def prune(
    cache: options.Cache = None,
    pixel_store_gb: Annotated[float, typer.Option("--pixel-store-gb", min=0, help="Keep at most this much, GB; 0: nothing.")] = 0.0,
) -> None:
    """Remove pixel stores, least recently used first; those in use stay."""
    from maskcls.data.pixels import default_cache, list_stores
    from maskcls.data.pixels import prune as prune_stores

    folder = _existing(cache, default_cache())
    removed = prune_stores(folder, pixel_store_gb)
    kept = list_stores(folder)
    in_use = sum(store.in_use for store in kept)
    print(f"Removed {len(removed)} pixel stores ({_total(removed)}); {len(kept)} are left ({_total(kept)}), {in_use} of them in use.")


def _existing(cache: Path | None, default: Path) -> Path:
    """The folder asked for; the default one may not be there yet. Raises CallError where one was named that is not there."""
    from maskcls.errors import CallError

    if cache is not None and not cache.is_dir():
        raise CallError(f"--cache {cache} is no folder. Name the folder that a run was given as --cache.")
    return (cache or default).absolute()


def _total(stores: "list[StoreInfo]") -> str:
    from maskcls.stores import gb

    return gb(sum(store.n_bytes for store in stores))


def _print_table(stores: "list[StoreInfo]") -> None:
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table

    from maskcls.stores import gb

    table = Table("store", "photos", "px", "size", "last used", "in use", "photos' folder")
    for store in stores:
        used = datetime.fromtimestamp(store.last_used_s).strftime("%Y-%m-%d %H:%M")
        photos = f"{store.photos:,}" if store.photos else "damaged"
        table.add_row(
            store.name,
            photos,
            str(store.shape[1]) if store.shape else "",
            gb(store.n_bytes),
            used,
            "yes" if store.in_use else "no",
            store.source,
        )
    console = Console()
    if not console.is_terminal:
        console.width = 200  # whole lines for what reads them
    console.print(table)


if __name__ == "__main__":
    run(app)
