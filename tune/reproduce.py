"""`python -m tune.reproduce --trial RUN/ID --out DIR`: a search's trial again, to the bit on the same hardware, as a
bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.errors import RunError
from maskcls.stores.cache_options import CacheOptions
from maskcls.text import printable

if TYPE_CHECKING:
    from tune.fitting.reproduction import RecordedTrial, Reproduction


def main(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the bundle; must not exist, or be a bundle with --overwrite.")
    ],
    trial: Annotated[
        str, typer.Option("--trial", help="RUN/ID: a run, by path or by name under runs/, and a trial's number.")
    ],
    cache: cli.Cache = None,
    shared_cache: cli.SharedCache = False,
    pixel_store_gb: cli.PixelStoreGb = 20.0,
    feature_store_gb: cli.FeatureStoreGb = 20.0,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", show_default="the recorded one")
    ] = None,
    loader_workers: Annotated[
        int | None,
        typer.Option(
            "--loader-workers", help="Processes that augment; changes no result.", show_default="the recorded number"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Train a search's trial again, with its recipe, photos, split, threads and device, and compare every epoch with
    the recorded one.

    A trial that was stopped early is trained to its end. The exit status is 1 where an epoch that ran as the recorded
    one did is not equal to it; on other hardware, versions or data the differences are listed, and it is 0. A killed
    call goes on where it was.
    """
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.export import check_writable
    from maskcls.serving.standalone import checkpoint_folder, epoch_line, kept_on_interrupt, say_where, write_bundle_of
    from tune.fitting.reproduction import RecordedTrial, Reproduction

    check_writable(out, overwrite=overwrite)
    recorded = RecordedTrial.open(trial)
    cached = CacheOptions(cache, pixel_store_gb, feature_store_gb, shared=shared_cache)
    dataset = FaceDataset.load(recorded.run / "data", cached)
    folder = checkpoint_folder(out)
    again = Reproduction(recorded, dataset, folder, device=device, loader_workers=loader_workers)
    if again.differences:
        typer.echo(
            f"Not as {recorded.title} ran, so its numbers may come out otherwise: {'; '.join(again.differences)}."
        )
    conditions = ", then ".join(str(segment.conditions) for segment in recorded.segments)
    typer.echo(printable(f"Recipe {recorded.recipe.digest}, {recorded.title}: {conditions}"))
    with kept_on_interrupt(folder):
        for epoch in again.epochs():
            typer.echo(f"{epoch_line(epoch.result, recorded.recipe.epochs)}: {epoch}")
    mismatches = again.mismatches()  # before the checkpoint goes, which says under which conditions the epochs ran
    write_bundle_of(again.fit, dataset, out, overwrite, run=recorded.run.name, trial=recorded.trial_id)
    typer.echo(printable(verdict(again, recorded)))
    say_where(again.fit, out)
    refuse(mismatches, recorded)


def verdict(again: Reproduction, recorded: RecordedTrial) -> str:
    """How many recorded epochs came out equal, in a sentence."""
    compared = [epoch for epoch in again.compared if epoch.recorded is not None]
    equal = [epoch for epoch in compared if not epoch.unequal]
    more = len(again.compared) - len(compared)
    return f"{len(equal)} of {len(compared)} recorded epochs of {recorded.title} are equal to the bit" + (
        f"; {more} more, which it was stopped before." if more else "."
    )


def refuse(mismatches: list[int], recorded: RecordedTrial) -> None:
    """Raise RunError naming the epochs that should be equal and are not, if there are any."""
    if mismatches:
        raise RunError(
            f"Epochs {', '.join(map(str, mismatches))} are not equal to those recorded, though threads, device, "
            f"versions, data and code are. Weights that changed since ({recorded.recipe.weights}) may be why; else "
            f"{recorded.title}, or this machine, is not to be trusted."
        )


if __name__ == "__main__":
    run(main)
