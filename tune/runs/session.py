"""What search and compare both do around their work on a run: prepare machine, data and weights, and print notes."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from maskcls.errors import CallError, Damaged, DataError, RunError
from maskcls.files import FULL, FileKind, address_of, write_atomically, write_csv
from maskcls.models.weights import check_reachable
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import default_cache
from maskcls.stores.network import note_on_network
from maskcls.text import command, printable, shown
from tune.runs import cluster, events
from tune.runs.cluster import Cluster
from tune.runs.folder import KINDS, NameInUse, RunFolder
from tune.runs.joined_ray.token import shows_token
from tune.runs.local_ray.place import find_place, token_command
from tune.runs.options import SharedOptions
from tune.runs.record import NOT_ENDED

if TYPE_CHECKING:
    import pandas as pd

    from maskcls.data.changes import Changes
    from maskcls.data.dataset import FaceDataset


FINGERPRINTS = "fingerprints.csv"
FINGERPRINTS_FILE = FileKind("fingerprints of photos by their keys", "Restore it from a backup.", most_bytes=1 << 34)
"""Of each photo, beside the run's photo table. A run that was begun before there were any gets them at a resume."""
_COLUMNS = ("key", "fingerprint")
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
    _, module = KINDS[run.record_name]
    resumed = bool(run.record().sessions)
    events.emit(events.RunEvent(module, run.name, str(run.path), resumed, wanted))


def wait_for_killed_driver(run: RunFolder) -> None:
    """Where the run's last driver was killed on this machine, say what is left of its Ray, and wait for its workers."""
    sessions = run.record().sessions
    if sessions and sessions[-1].reason == NOT_ENDED and sessions[-1].pid is not None:
        cluster.wait_for_left_behind(sessions[-1].pid)


def full_disk(said: str, run: RunFolder) -> RunError:
    """Return the error that the disk is full; `said` is a sentence about what could not be written."""
    return RunError(f"The disk is full: {said} Free some space, then go on: {run.resume_command}")


@contextmanager
def saying_how_to_go_on(run: RunFolder) -> Iterator[None]:
    """Turn the error of a disk that is full in the block into one that says how to go on with the run."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        what = shown(error.filename) if error.filename else "a file"
        raise full_disk(f"{what} could not be written ({error.strerror}).", run) from error


def say(note: str) -> None:
    """Print a line for people, beside the results on stdout."""
    typer.echo(printable(note), err=True)


def say_all(notes: Iterable[str]) -> None:
    """Print each note as a line."""
    for note in notes:
        say(note)


def machine_of(options: SharedOptions, stack: ExitStack) -> Cluster:
    """The cluster that the options name, joined until the stack ends, or that this process is connected to already.

    Without one this machine, with no Ray started.
    """
    if not options.plan:
        say_all(filter(None, [note_on_network(options.cache or default_cache())]))
    if options.address or cluster.is_up():
        return stack.enter_context(cluster.connected(options.address))
    if not options.plan:
        find_place()  # raises where Ray would find no folder for its files, before anything is made
    return cluster.here()


def say_dashboard(there: Cluster) -> None:
    """Print where Ray's dashboard is."""
    if there.dashboard:
        token = f" (it asks for a token: `{token_command()}` prints it)" if shows_token() else ""
        typer.echo(f"Ray's dashboard: http://{there.dashboard}{token}")


def check_layouts(options: SharedOptions) -> None:
    """Check that --data and --extra name something that photos are read from. Raises FolderError.

    Not of an address, whose photos are still to be fetched.
    """
    from maskcls.data.layouts import scan  # imports OpenCV

    scan.check_layouts(*(data for data in (options.data, options.extra) if address_of(data) is None))


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
        options.photos,
        corrections=options.corrections,
        split_file=options.split,
        split_seed=options.split_seed,
        skip_bad=options.skip_bad,
        people_from=options.people_from,
        extra=options.extra_photos,
        cache=options.cache_options,
        progress=True,
    )


def check_repeats(faces: FaceDataset, repeats: int) -> None:
    """Print which classes cannot be in the repeat of every fold, if there are any.

    Raises CallError where train and validation people are fewer than folds, which else would show after the trials.
    """
    from maskcls.data import splits

    try:
        splits.folds(faces.photos, repeats, persons=(*faces.split.train, *faces.split.validation))
    except CallError as error:
        raise CallError(f"--repeats {repeats}: {error} Take fewer, or --repeat-by seeds.") from None
    say_too_few_for_folds(faces, repeats)


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


def note_files(run: RunFolder, faces: FaceDataset, options: SharedOptions) -> dict[str, str]:
    """Keep a fingerprint of each photo, for a resume to compare; return what belongs into the run's DataRecord."""
    from maskcls.data.changes import fingerprints  # imports OpenCV and pandas, which a wrong command need not wait for

    found = dict(zip(faces.photos["key"], fingerprints(faces.photos["file"].tolist()), strict=True))
    run.data.mkdir(parents=True, exist_ok=True)
    write_csv(run.data / FINGERPRINTS, _COLUMNS, found.items())
    return {"sources_digest": _sources(options), "files_digest": _digest(found)}


def _sources(options: SharedOptions) -> str:
    from maskcls.data.changes import sources_digest

    is_file = options.corrections not in ("published", "none")
    return sources_digest(options.photos, options.extra_photos, Path(options.corrections) if is_file else None)


def check_data(run: RunFolder, options: SharedOptions, *, by_labels: bool = True) -> None:
    """Compare the run's photos with what they are now, and take them up from where they are now.

    Args:
        options: the run's own, with the --data and --extra that the command states.
        by_labels: whether labels are compared too.

    Raises DataError where photos are out of reach, or are not what they were; then the run stays as it is.
    """
    from maskcls.data.changes import changes, fingerprints

    faces = faces_of(run, options)
    before, recorded = faces.photos, run.record().data
    is_as_before = recorded.sources_digest == _sources(options) and not _is_moved(run, options, before)
    now = before if is_as_before and options.data is not None else _photos_now(run, options, before)
    found = dict(zip(now["key"], fingerprints(now["file"].tolist(), progress=True), strict=True))
    if not any(found.values()):
        raise _out_of_reach(run, _place(options, before))
    known = _known(run, recorded.files_digest)
    with_labels = by_labels and options.data is not None and not _corrections_are_gone(options)
    differs = changes(before, now, known, found, by_labels=with_labels)
    if differs:
        raise _refusal(run, options, differs)
    moved = before["key"].map(dict(zip(now["key"], now["file"], strict=True)))
    if (moved != before["file"]).any():
        write_atomically(run.data / "photos.csv", before.assign(file=moved).to_csv(index=False))
    if not known:
        noted = note_files(run, faces_of(run, options), options)
        run.write_record(run.record().changed(data=recorded.changed(**noted)))


def _is_moved(run: RunFolder, options: SharedOptions, before: pd.DataFrame) -> bool:
    """Whether the photos are in another place than the run's own, by the command or by this machine's cache."""
    own, is_elsewhere = options.recorded(run.record()), False
    # Rows of extra photos are behind the others.
    for place, given, row in ((options.photos, options.data, 0), (options.extra_photos, options.extra, -1)):
        if place is not None and place != given:
            folder = place if place.is_dir() else place.parent
            is_elsewhere |= not Path(before["file"].iloc[row]).is_relative_to(folder)
    return is_elsewhere or (options.data, options.extra) != (own.data, own.extra)


def _photos_now(run: RunFolder, options: SharedOptions, before: pd.DataFrame) -> pd.DataFrame:
    """Return the photo table as it would be read now; of demo faces, drawn again where they are gone."""
    from maskcls.data.dataset import demo_folder, photo_table

    if options.data is None:
        if all(Path(file).exists() for file in before["file"]):
            return before
        return photo_table(demo_folder(options.cache_options.folder))
    place = options.photos
    if place is None or not place.exists():
        raise _out_of_reach(run, options.data)
    corrections = "none" if _corrections_are_gone(options) else options.corrections
    try:
        return photo_table(
            place,
            corrections=corrections,
            skip_bad=options.skip_bad,
            people_from=options.people_from,
            extra=options.extra_photos,
        )
    except DataError as error:
        if not any(Path(file).exists() for file in before["file"]):
            raise _out_of_reach(run, options.data) from None
        raise DataError(
            f"{options.data} can no longer be read as when {run.name} began, so nothing was begun. {error}\n"
            f"{_way_on(run)}"
        ) from None


def _corrections_are_gone(options: SharedOptions) -> bool:
    """Whether labels cannot be made again: the run keeps them, so that a file of corrections may go."""
    return options.corrections not in ("published", "none") and not Path(options.corrections).exists()


def _place(options: SharedOptions, before: pd.DataFrame) -> Path:
    return options.data or Path(str(before["file"].iloc[0])).parent


def _known(run: RunFolder, digest: str | None) -> Mapping[str, str]:
    """Return the fingerprints that the run kept, by key; none of a run from before there were any."""
    if digest is None:
        return {}
    file = run.data / FINGERPRINTS
    try:
        rows = csv.reader(io.StringIO(FINGERPRINTS_FILE.read_text(file), newline=""))
        known = dict(list(rows)[1:])
    except (Damaged, ValueError, csv.Error):
        known = {}
    if _digest(known) != digest:
        raise DataError(
            f"{file} is missing or damaged, so the run's photos cannot be compared with what they were. Restore it "
            f"from a backup. {_way_on(run)}"
        )
    return known


def _digest(found: Mapping[str, str]) -> str:
    lines = "".join(f"{key}\t{fingerprint}\n" for key, fingerprint in found.items())
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:12]


def _refusal(run: RunFolder, options: SharedOptions, differs: Changes) -> DataError:
    from_where = f"The photos of {run.name}" if options.data is None else f"The photos in {options.data}"
    return DataError(
        f"{from_where} are not those that {run.name} was begun with, so nothing was begun: {differs}. Put them back, "
        f"or name where they are with --data. {_way_on(run)}"
    )


def _out_of_reach(run: RunFolder, place: Path) -> DataError:
    _, module = KINDS[run.record_name]
    return DataError(
        f"{place}, from which {run.name} read its photos, is not there, or holds none of them, so nothing was begun. "
        f"Mount it or, if it was moved, name its new place: {command(module, '--resume', run.path, '--data', 'NEW')}"
    )


def _way_on(run: RunFolder) -> str:
    _, module = KINDS[run.record_name]
    return f"A new run with the same options on the data as it is now: {command(module, '--new-run-from', run.path)}"
