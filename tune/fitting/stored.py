"""A fit whose run is kept in a storage: its worker takes what it needs from there, and puts each epoch before it
reports it.

So a worker on another node, which has another disk, goes on from the last epoch that was reported, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from maskcls.errors import OutOfReach
from maskcls.storage.store import START_S, Store
from maskcls.training.checkpoint_files import best_name, files_of
from maskcls.training.conditions import HARDWARE
from tune.fitting.attempts import NOTE, exit_if_followed, noted_elsewhere
from tune.fitting.curve import NO_EPOCH
from tune.fitting.failures import explain, state_of
from tune.fitting.request import FitRequest, Row, Rows, Work
from tune.fitting.worker import FitOutcome, Report, run_and_report
from tune.runs.stored.folder import DRIVERS, StoredFolder
from tune.states import TrialState

_SPLITS = "finalists/splits"
BEGUN_AGAIN = (TrialState.MACHINE_FAILED, TrialState.DISK_FULL)
"""How a fit ends that another worker, perhaps on this disk, may have begun again already."""


def run_and_report_stored(
    request: FitRequest, work: Work, report: Report | None = None, store: Store | None = None, *, drops: bool = False
) -> FitOutcome:
    """Do what `run_and_report` does for a fit of a run that is kept in a storage.

    Args:
        store: the run's place in the storage; None: the run has none.
        drops: remove the checkpoint from this disk in the end (`drop_weights`).
    """
    if store is None:
        return run_and_report(request, work, report)
    report = report or (lambda row, state, message: None)
    kept = folder_of(store, request.run, request.folder)
    try:
        _fetch(store, request, kept)
    except (OutOfReach, OSError) as error:
        state, message = state_of(error), explain(error)
        report({**NO_EPOCH, "finished": False}, state, message)
        return FitOutcome(state, message)

    def begin(asked: FitRequest) -> Rows:
        kept.send()  # the recipe: the driver knows by it that a worker has come to the fit
        return (yield from work(asked))

    def put_note() -> None:
        with suppress(OutOfReach, OSError):  # without it, only what a kill for want of memory teaches is lost
            kept.send(store=kept.store.trying(0.0), deletes=True)

    reported = TrialState.MACHINE_FAILED

    def put_and_report(row: Row, state: TrialState, message: str) -> None:
        nonlocal reported
        reported = state
        if state in (TrialState.RUNNING, TrialState.COMPLETE):
            exit_if_followed(request.folder, kept.store.read_json(NOTE))
            kept.send(deletes=True)
        else:  # the storage may be what failed
            with suppress(OutOfReach, OSError):
                kept.send(store=kept.store.trying(START_S))
        report(row, state, message)

    try:
        with noted_elsewhere(request.folder, put_note):
            return run_and_report(request, begin, put_and_report)
    finally:  # also where Ray stops a trial, by SystemExit, for which it waits 2 s: nothing is asked of the storage
        if drops and reported not in BEGUN_AGAIN:
            drop_weights(request, kept)


def drop_weights(request: FitRequest, kept: StoredFolder) -> None:
    """Remove a fit's checkpoint from this disk where the storage has it.

    The next worker fetches it, and so does the driver; the disk of a worker would be full after some hundred fits. The
    disk of the run's driver keeps it, and one where another worker is at the fit by now.
    """
    if not (request.run / DRIVERS).exists() and not (request.folder / NOTE).exists():
        kept.drop(file.relative_to(request.folder).as_posix() for file in files_of(request.checkpoint_folder))


def folder_of(store: Store, run: Path, folder: Path) -> StoredFolder:
    """The folder of a fit, kept below the run's place."""
    return StoredFolder(store.below(folder.relative_to(run).as_posix()), folder)


def _fetch(store: Store, request: FitRequest, kept: StoredFolder) -> None:
    """Bring the run's photo table and splits, and what the fit, or its trial, has come to."""
    StoredFolder(store.below("data"), request.run / "data").fetch()
    if request.split.startswith(_SPLITS):
        StoredFolder(store.below(_SPLITS), request.run / _SPLITS).fetch()
    if request.trial_folder is not None:
        of_trial = folder_of(store, request.run, request.trial_folder)
        if not request.continues_trial:
            of_trial = StoredFolder(of_trial.store, of_trial.folder, belongs=lambda name: name == HARDWARE)
        of_trial.fetch()
    if there := kept.fetch():
        _remove_older(there, request.checkpoint_folder)
        if NOTE not in kept.names():  # of an attempt that another node has followed up
            (request.folder / NOTE).unlink(missing_ok=True)


def _remove_older(there: Iterable[str], checkpoint: Path) -> None:
    """Remove weights of epochs that this node had before another one went on.

    Args:
        there: what the storage has. Its index may lack weights that the state names: a node was lost between the two.
    """
    current = {Path(name).name for name in there}
    for file in checkpoint.glob(best_name("*")):
        if file.name not in current:
            file.unlink(missing_ok=True)
