"""What search and compare both do around their work on a run: prepare machine, data and weights, and print notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import typer

from maskcls.models.weights import check_reachable
from maskcls.recipe import Recipe
from tune.runs import cluster, events
from tune.runs.cluster import Cluster
from tune.runs.folder import KINDS, NameInUse, RunFolder
from tune.runs.options import SharedOptions

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset


_Options = TypeVar("_Options", bound=SharedOptions)


def begin_or_resume(options: _Options, begin: Callable[[_Options], int], resume: Callable[[_Options, str], int]) -> int:
    """Begin the run that the options name or, if one has the name, go on with it. Returns the exit status.

    Where two commands do so at the same moment, one makes the run, and the other is refused because it is held.

    Args:
        resume: given the options and the run's path.
    """
    try:
        return begin(options)
    except NameInUse:
        return resume(options, str(options.runs / (options.name or "")))


def emit_run(run: RunFolder, wanted: int | None) -> None:
    """Report that work on the run begins.

    Args:
        wanted: trials of a search, or repeats of a comparison; None: as many as the time allows.
    """
    _, command = KINDS[run.record_name]
    resumed = bool(run.record().sessions)
    events.emit(events.RunEvent(command, run.name, str(run.path), resumed, wanted))


def say(note: str) -> None:
    """Print a line for people, beside the results on stdout."""
    typer.echo(note, err=True)


def say_all(notes: Iterable[str]) -> None:
    """Print each note as a line."""
    for note in notes:
        say(note)


def machine_of(options: SharedOptions, stack: ExitStack) -> Cluster:
    """The cluster that the options name, joined until the stack ends, or that this process is connected to already.

    Without one this machine, with no Ray started.
    """
    if options.address or cluster.is_up():
        return stack.enter_context(cluster.connected(options.address))
    return cluster.here()


def say_dashboard(there: Cluster) -> None:
    """Print where Ray's dashboard is."""
    if there.dashboard:
        typer.echo(
            f"Ray's dashboard: http://{there.dashboard} (it asks for a token: `{cluster.TOKEN_COMMAND}` prints it)"
        )


def check_weights(recipes: Iterable[Recipe], *, names: bool = True) -> None:
    """Check that the weights of every backbone can be had, before anything is begun. Raises CallError or RunError.

    Args:
        names: check as well that timm knows the backbones.
    """
    checked = {(recipe.backbones, recipe.weights): recipe for recipe in recipes}
    for recipe in checked.values():
        if names:
            from maskcls.models.backbones import check_backbones  # imports timm: 4 s

            check_backbones(recipe)
        else:
            for backbone in recipe.backbones:
                check_reachable(backbone, recipe.weights)


def prepared(options: SharedOptions) -> FaceDataset:
    """The photos, corrected and split, with a bar on a terminal. Raises DataError listing what is wrong with them."""
    from maskcls.data.dataset import prepare  # imports scikit-learn and OpenCV, which a wrong command need not wait for

    return prepare(
        options.data,
        corrections=options.corrections,
        split_file=options.split,
        split_seed=options.split_seed,
        skip_bad=options.skip_bad,
        people_from=options.people_from,
        extra=options.extra,
        cache=options.cache_options,
        progress=True,
    )


def say_too_few_for_folds(faces: FaceDataset, folds: int) -> None:
    """Print which classes cannot be in every fold of the train and validation people, if there are any."""
    from maskcls.data.shortages import too_few_for_folds

    say_all(filter(None, [too_few_for_folds(faces.photos, faces.split, folds)]))


def has_data(run: RunFolder) -> bool:
    """Whether the run holds its photos and split."""
    return (run.data / "photos.csv").exists() and (run.data / "split.json").exists()


def faces_of(run: RunFolder, options: SharedOptions) -> FaceDataset:
    """The run's photos and split."""
    from maskcls.data.dataset import FaceDataset

    return FaceDataset.load(run.data, options.cache_options)


def n_people(faces: FaceDataset) -> int:
    """How many different people the photos show."""
    return int(faces.photos["person"].nunique())
