"""What a driver does with its run in a storage: it takes the run from there, and keeps there what it writes.

The run's folder stays on the driver's own disk, with its locks and the journal, to which lines are appended; an object
store has neither locks nor appending. A thread of its own puts what has changed since, so that neither a trial nor the
driver waits for the storage. What a trial needs to go on is put by its worker (`tune.fitting.stored`).
"""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from maskcls.errors import CallError, DataError, OutOfReach, RunError
from maskcls.files import expanded, parse_object, replacing, write_atomically
from maskcls.storage.store import PATIENCE_S, START_S, Store
from maskcls.text import command
from maskcls.training.checkpoint_files import is_of_checkpoint
from tune.durations import duration
from tune.runs.folder import BEST_EARLIER, KINDS, NameInUse, RunFolder, SearchRun, passing
from tune.runs.options import SharedOptions
from tune.runs.session import say
from tune.runs.stored.folder import DRIVERS, INDEX, StoredFolder
from tune.runs.stored.lease import LEASE, Lease, TakenOver, held

FITS = ("trials", "finalists", "fits")
"""Folders of a run that hold one folder for each fit, which the fit's worker puts into the storage."""
_LOOK_S, _LONGEST_WAIT_S = 1.0, 30.0
_END_S = 120.0
"""How long a driver that has nothing else to do waits for a storage that is out of reach."""
_SHARE = 0.2
"""Of the time in which the storage may be busy with what the driver writes: a long journal is put less often."""
_AT_A_TIME = 8
_Run = TypeVar("_Run", bound=RunFolder)
_SENDERS: dict[Path, Sender] = {}


def sender_of(run: Path) -> Sender | None:
    """Return what keeps this run in a storage, in the process of its driver; None where nothing does."""
    return _SENDERS.get(run)


class Sender:
    """Keeps in the storage what the run's driver writes. To be used as a context, by the driver that holds the run."""

    def __init__(self, run: RunFolder, lease: Lease, *, patience_s: float = PATIENCE_S) -> None:
        self.run, self.store = run, lease.store.trying(patience_s)
        self.lost = ""
        """Why the run cannot be kept in the storage any longer; "" while it can."""
        self._lease, self._patience_s = lease, patience_s
        self._folders: dict[str, StoredFolder] = {}
        self._tasks: list[Callable[[], object]] = []
        self._changed = threading.Condition()
        self._wanted = self._done = 0
        """Rounds that were asked for, and those that have ended."""
        self._is_closing = False
        self._thread = threading.Thread(target=self._work, name="storage", daemon=True)

    def __enter__(self) -> Sender:
        _note(self.run.path, self._lease)
        self._lease.begin_to_write()
        _SENDERS[self.run.path] = self
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._patience_s = min(self._patience_s, _END_S)
        try:
            self.flush()
        except RunError as error:
            if kind is None:
                raise
            say(str(error))
        finally:
            with self._changed:
                self._is_closing = True
                self._changed.notify_all()
            self._thread.join()
            del _SENDERS[self.run.path]

    def later(self, task: Callable[[], object]) -> None:
        """Do a task once all that the driver has written until now is in the storage.

        It is done again if it raises OutOfReach.
        """
        with self._changed:
            self._tasks.append(task)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all that was written and asked until now is done. Raises RunError where it cannot be."""
        with self._changed:
            self._wanted += 1
            round_ = self._wanted
            self._changed.notify_all()
            while self._done < round_ and not self.lost:
                self._changed.wait(0.5)
        if self.lost:
            raise RunError(f"{self.lost} What was done is kept in {self.run.path}; to go on: {self.run.resume_command}")

    def folder(
        self, path: Path, *, deep: bool = True, belongs: Callable[[str], bool] = lambda name: True
    ) -> StoredFolder:
        """The folder of the run, which is kept below the run's place, or the files of it that belong to it."""
        place = path.relative_to(self.run.path).as_posix()
        store = self.store.trying(0.0).below("" if place == "." else place)
        return StoredFolder(store, path, deep=deep, belongs=belongs)

    def fetch(self, path: Path, only: str = "") -> bool:
        """Bring what the storage has of a fit's folder, or one file of it; return whether it was in reach."""
        kept = self.folder(path, belongs=lambda name: only in ("", name))
        kept.store = kept.store.trying(START_S)
        try:
            kept.fetch()
        except (OutOfReach, OSError):
            return False
        return True

    def fetch_surely(self, path: Path) -> None:
        """Bring what the storage has of a fit's folder, however long that takes. Raises RunError as `flush` does."""
        if not self.fetch(path):
            self.later(self.folder(path).fetch)
            self.flush()

    def peek(self, path: Path, name: str, into: Path) -> bool:
        """Bring a file of a fit's folder into another one; return whether the storage has answered.

        A worker may be at the fit, and where that has this disk, its own file is newer.
        """
        try:
            content = self.folder(path).store.read(name)
        except (OutOfReach, OSError):
            return False
        if content is not None:
            into.mkdir(parents=True, exist_ok=True)
            with replacing(into / name, wait=False) as stream:
                stream.write(content)
        return True

    def put(self, path: Path, only: str) -> None:
        """Put a file of a fit's folder at once, where the storage is in reach. No worker may be at the fit."""
        kept = self.folder(path, belongs=lambda name: only in ("", name))
        kept.store = kept.store.trying(START_S)
        with suppress(OutOfReach, OSError):
            kept.send()

    def exchange(self, path: Path, *, weights: bool = True) -> None:
        """Bring what the storage has of a fit's folder, and put what the driver has written there.

        Args:
            weights: False: leave the fit's checkpoint where it is, and delete it there.
        """
        folder = self.folder(path, belongs=lambda name: weights or not is_of_checkpoint(name))
        folder.fetch()
        folder.send()
        if not weights:
            folder.forget([name for name in folder.store.sizes() if is_of_checkpoint(name)])

    def forget(self, files: Iterable[Path]) -> None:
        """Delete files from the storage that were removed here."""
        names: dict[Path, list[str]] = {}
        for file in files:
            fit = self.run.path.joinpath(*file.relative_to(self.run.path).parts[:2])
            names.setdefault(fit, []).append(file.relative_to(fit).as_posix())
        for fit, gone in names.items():
            self.folder(fit).forget(gone)

    def _work(self) -> None:
        try:
            self._send_until_closed()
        except BaseException as error:
            self.lost = f"The run cannot be kept in the storage {self.store}: {type(error).__name__}: {error}."
            raise

    def _send_until_closed(self) -> None:
        failing_since, wait_s = None, _LOOK_S
        while not self._is_closing and not self.lost:
            with self._changed:
                wanted, tasks = self._wanted, list(self._tasks)
            began = time.monotonic()
            try:
                self._round(tasks)
            except TakenOver as error:
                self.lost = str(error)
            except (OutOfReach, OSError) as error:
                failing_since = failing_since or began
                self._say_failure(error, time.monotonic() - failing_since, is_first=failing_since == began)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            else:
                if failing_since is not None:
                    say(f"The storage {self.store} is in reach again.")
                failing_since, wait_s = None, max(_LOOK_S, (time.monotonic() - began) / _SHARE)
                with self._changed:
                    self._done = wanted
                    self._changed.notify_all()
            with self._changed:
                if self._wanted == self._done or failing_since is not None:
                    self._changed.wait(wait_s)

    def _say_failure(self, error: Exception, failing_s: float, *, is_first: bool) -> None:
        if failing_s >= self._patience_s:
            self.lost = f"{error} It was so for {duration(failing_s)}."
        elif is_first:
            say(f"{error} The work goes on meanwhile, for at most {duration(self._patience_s)}.")

    def _round(self, tasks: list[Callable[[], object]]) -> None:
        """Put what has changed, then do these tasks, and put what has changed meanwhile where one took long."""
        put_at = self._put_own()
        for task in tasks:
            if time.monotonic() - put_at > _LOOK_S:
                put_at = self._put_own()
            task()
            self._tasks.remove(task)

    def _put_own(self) -> float:
        """Put what the driver has written since; return when."""
        if self._lease.lost:
            raise TakenOver(self._lease.lost)
        for place in _own_folders(self.run.path):
            self._kept(place).send(deletes=place.name.startswith("best"))  # another bundle has other files
        return time.monotonic()

    def _kept(self, place: Path) -> StoredFolder:
        key = str(place)
        if key not in self._folders:
            self._folders[key] = self.folder(place, deep=place != self.run.path)
        return self._folders[key]


def _own_folders(run: Path) -> list[Path]:
    """Return the folders of a run that its driver fills, the run's own at last: its record speaks of the others."""
    named = [run / "data", run / "finalists" / "splits", run / "best", run / "best-on-all", run / "predictions"]
    return [folder for folder in (*named, *run.glob(f"{BEST_EARLIER}*"), run) if folder.is_dir()]


def _fits(run: Path) -> list[Path]:
    return [fit for part in FITS for fit in sorted((run / part).glob("[!.]*")) if fit.is_dir()]


@contextmanager
def keeping(run: RunFolder, lease: Lease | None) -> Iterator[Sender | None]:
    """Within the block, keep the run in the storage of its lease; without one do nothing."""
    if lease is None:
        (run.path / DRIVERS).unlink(missing_ok=True)
        yield None
        return
    with Sender(run, lease) as sender:
        if lease.is_new:
            sender.later(lambda: [sender.folder(fit).send() for fit in _fits(run.path)])
        sender.flush()
        yield sender


def check_free(kind: type[RunFolder], options: SharedOptions, name: str | None = None) -> None:
    """Raise NameInUse if a run in the storage has the name, and RunError if the storage is out of reach.

    Args:
        name: None: the one of the options, which may have none.
    """
    if options.storage is None or options.plan:
        return
    name = name or options.name
    store = Store(options.storage, name or "").trying(START_S, at_start=True)
    try:
        is_there = store.read(kind.record_name) is not None
    except OutOfReach as error:
        raise RunError(f"{error} Nothing was begun.") from None
    if is_there and name:
        raise NameInUse(
            f"{store} exists already: the run name {name!r} is in use. Choose another --name, or go on with it: "
            f"{command(KINDS[kind.record_name][1], '--resume', name, '--storage', options.storage)}"
        )


@contextmanager
def begun(kind: type[RunFolder], options: SharedOptions, name: str) -> Iterator[Lease | None]:
    """Within the block, hold a new run in the storage, if the options have one. Raises what `check_free` does."""
    if options.storage is None:
        yield None
        return
    with held(Store(options.storage, name)) as lease:
        check_free(kind, options, name)
        yield lease


def found(kind: type[_Run], options: SharedOptions, place: str, stack: ExitStack) -> tuple[_Run, Lease | None]:
    """Return the run to go on with, from the storage where that is further than this disk, and the hold on it there.

    Args:
        options: as stated; without --storage the run's own counts.
        stack: ends the hold.
    """
    here = _here(kind, place, options.runs)
    address = options.storage
    if "storage" not in options.model_fields_set and here is not None:
        address = here.record().call.get("storage")
    if address is None or options.plan:
        return kind.open(place, options.runs), None
    path = here.path if here else (options.runs / Path(place).name).absolute()
    lease = stack.enter_context(held(Store(address, path.name)))
    _take(kind, path, lease, is_here=here is not None)
    if here is None and not path.exists():
        raise CallError(
            f"There is no run {place!r}, neither under {options.runs} nor in the storage {lease.store}. Check --resume "
            "and --storage."
        )
    return kind.open(path), lease


def _here(kind: type[_Run], place: str, runs: Path) -> _Run | None:
    is_here = any((folder / kind.record_name).is_file() for folder in (expanded(place), runs / place))
    return kind.open(place, runs) if is_here else None


def _take(kind: type[RunFolder], path: Path, lease: Lease, *, is_here: bool) -> None:
    """Put the run's folder in place as the storage has it, unless what is here came after that."""
    lease.is_new = lease.store.read(kind.record_name) is None
    if lease.is_new:
        return
    if is_here and lease.wrote in _noted(path):
        return
    say(f"Fetching the run {path.name} from {lease.store}.")
    new = passing(path)
    try:
        store = lease.store.trying(START_S)
        fetch(kind, store, new)
        _drop_begun_last(kind(new), store)
        if is_here:
            _put_aside(path)
        new.rename(path)
    except OutOfReach as error:
        raise RunError(f"{error} Nothing was begun.") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _put_aside(path: Path) -> None:
    numbered = (path.with_name(f"{path.name}-replaced-{number}") for number in itertools.count(1))
    aside = next(other for other in numbered if not other.exists())
    path.rename(aside)
    say(f"The storage has another state of the run {path.name}. What was here is now {aside}.")


def fetch(kind: type[RunFolder], store: Store, folder: Path) -> None:
    """Bring a whole run from its place in the storage into a folder."""
    for part in kind.parts:
        (folder / part).mkdir(parents=True, exist_ok=True)
    indexed = [name for name in store.sizes() if name.rpartition("/")[2] == INDEX]
    places = sorted({name.rpartition("/")[0] for name in indexed})
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        list(pool.map(lambda place: _fetch_one(store, folder, place), places))


def _fetch_one(store: Store, folder: Path, place: str) -> None:
    StoredFolder(
        store.below(place), folder / place, deep=bool(place), belongs=lambda name: name not in (INDEX, LEASE)
    ).fetch()


def _drop_begun_last(run: RunFolder, store: Store) -> None:
    """Remove the trials that a lost driver gave out last, here and in the storage: its journal there lacks them.

    A worker puts its trial's recipe at once, the driver its journal up to some seconds later. Such a trial is drawn
    again, under the same number. One that the journal lacks in the middle is left for who repairs it.
    """
    from tune.runs.study import RECIPE, trials_of  # imports optuna

    if not isinstance(run, SearchRun):
        return
    try:
        begun = [trial.number for trial in trials_of(run) if RECIPE in trial.user_attrs]
    except DataError:  # which is said where the run is read next
        return
    for folder in sorted(run.trials.glob("[0-9]*")):
        if int(folder.name) > max(begun, default=-1):
            place = store.below(f"trials/{folder.name}")
            for name in sorted(place.sizes(), key=lambda name: name == INDEX):  # what has an index is fetched again
                place.delete(name)
            shutil.rmtree(folder)


def _noted(path: Path) -> list[str]:
    try:
        owners = parse_object((path / DRIVERS).read_bytes())["owners"]
    except (OSError, ValueError, LookupError):
        return []
    return [str(owner) for owner in owners] if isinstance(owners, list) else []


def _note(path: Path, lease: Lease) -> None:
    owners = dict.fromkeys([*_noted(path), *filter(None, [lease.wrote]), lease.owner])
    write_atomically(path / DRIVERS, json.dumps({"storage": str(lease.store), "owners": list(owners)}) + "\n")
