"""`python -m tune.ensemble --run RUN --out DIR`: finalists of one or more searches as one bundle, if that is better."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from maskcls import cli
from maskcls.cli import run as run_command
from maskcls.errors import CallError
from maskcls.stores.cache_options import CacheOptions
from maskcls.text import predict_command, printable

RUN_HELP = (
    "A search with finalists: its folder, or its name under --runs. Again for more searches of the same data and split."
)
SIZE_HELP = "How often a finalist is taken, at most; one may be taken again, which raises its weight."


def main(
    run: Annotated[list[str], typer.Option("--run", help=RUN_HELP)],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the bundle; must not exist, or be a bundle with --overwrite.")
    ],
    size: Annotated[int, typer.Option("--size", help=SIZE_HELP)] = 10,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    cache: cli.Cache = None,
    shared_cache: cli.SharedCache = False,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Average the probabilities of searches' finalists, selected greedily by what their repeats predicted (Caruana et
    al., 2004).

    Whether that beats the best finalist alone is decided on people by whom nothing was selected. Where it does, --out
    gets the ensemble, one bundle that predicts like any other; where not, the best finalist alone. The holdout only
    confirms; each use of it is counted.
    """
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.export import check_writable
    from tune.report.group_record import note_groups
    from tune.runs.folder import SearchRun
    from tune.selection.ensemble_bundle import confirm, decide, table, verdict, write
    from tune.selection.library import check_runs

    if size < 1:
        raise CallError(f"--size must be at least 1, but got {size}.")
    check_writable(out, overwrite=overwrite)
    found = [SearchRun.open(name, runs) for name in run]
    design = check_runs(found)
    with ExitStack() as held:
        for one in found:
            held.enter_context(one.driving())
        cached = CacheOptions(cache, pixel_store_gb, feature_store_gb, shared=shared_cache)
        faces = FaceDataset.load(found[0].data, cached)
        decision = decide(found, faces, design, size)
        typer.echo(printable("\n".join((*table(decision, design), *verdict(decision, design, out)))))
        write(decision, out, faces, overwrite)
        typer.echo(printable("\n".join(confirm(decision, found, out, faces))))
        note_groups(found[0], out)
    typer.echo(f"To predict:\n  {predict_command(out)}")


if __name__ == "__main__":
    run_command(main)
