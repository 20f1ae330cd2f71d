"""A run on disk: a folder under --runs, a record in JSON, one driver at a time.

A search (`SearchRun`):

    config.toml       the call as a file for --config; rewritten when a resume changes it
    search.json       the call, versions, commit, hardware, data and split digests; rewritten whole, never in place
    study.journal     Optuna's record of every trial: the record that counts
    trials/<id>/      recipe.json, epochs.jsonl (the curve), error.txt of a trial that failed, and the checkpoint
    finalists/        <fit id>/: the finalists' repeats (`tune.fitting.pool`), each with answers.npz;
                      splits/: the folds that they were trained on
    experiment/       Ray's folders, one part for each start of a driver
    leaderboard.csv   rewritten after every trial
    best/             the winner, a bundle of its own model or of that and others; or the best trial
    best-earlier/     what best/ held, if what replaced it is worse by validation; then best-earlier-2/, and so on
    best-on-all/      the winner's recipe trained on train and validation people together, a bundle that has no score
    predictions/      <side>-<bundle>/answers.npz: what a bundle predicts for the people of one side of the split
    report.html       the search, to look at
    data/             photos.csv and split.json: the photos and people that every trial sees

A comparison (`ComparisonRun`):

    config.toml       the call as a file for --config; rewritten when a resume changes it
    comparison.json   the call, the comparisons, versions, commit, hardware, data and split digests; rewritten whole,
                      never in place
    data/             photos.csv and split.json: photos and people;
                      repeats/<k>-<i>.json: the split of repeat i of k folds
    fits/<id>/        one fit of one repeat (`tune.fitting.pool`): recipe.json, epochs.jsonl, answers.csv, result.json
    table.csv         one row per variant; table.md the same, for a document
    differences.png   the differences, to look at
    report.html       all of it as a page
    study.py          a copy of a user-supplied study

On a cluster of several nodes a run must be on a file system that all of them share, or be kept in a storage
(`tune.runs.stored`): trials and fits keep their state in it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import filelock

from maskcls.command_line.config_file import write_config
from maskcls.errors import CallError, DataError, RunError
from maskcls.files import FileKind, expanded, write_atomically
from maskcls.stores.locks import FolderLock
from maskcls.text import command
from tune.runs import journal as journals
from tune.runs.record import ComparisonRecord, RunRecord, SearchRecord

DEFAULT_RUNS = Path("runs")
DEFAULT_KEEP = 5
"""Of how many trials a search keeps the weights (`tune.selection.keeping`)."""
KINDS = {"search.json": ("a search", "tune.search"), "comparison.json": ("a comparison", "tune.compare")}
"""By the name of its record: what a run is, and the command that goes on with it."""
FORMAT = 1
"""Of search.json and comparison.json."""
RECORD_FILE = FileKind("a run's record: a JSON object", "Restore it from a backup, or start a new run.")
_Record = TypeVar("_Record", bound=RunRecord)
BEST_EARLIER = "best-earlier"
_LONGEST_LINE = 1 << 24
"""Bytes, of a journal."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def as_name(text: str) -> str:
    """Return the text as a run's name may begin: a dash for what a name may not hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:60] or "search"


class NameInUse(CallError):  # noqa: N818 - what is wrong, as Diverged is
    """A run is to be begun under a name that another one has."""


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. `path` is absolute."""

    path: Path

    record_name: ClassVar[str]
    """A key of KINDS: a folder that holds this file is a run of this kind."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Folders that a new run gets."""

    @classmethod
    def create(cls, runs: Path, name: str, record: RunRecord | None = None) -> Self:
        """Make a new run, whole or not at all; its record is empty if none is given.

        Raises NameInUse, also where another command makes it at the same moment, and CallError if the name could not be
        a folder's.
        """
        cls.check_free(runs, name)
        run = cls((runs / name).absolute())
        runs.mkdir(parents=True, exist_ok=True)
        new = passing(run.path)
        new.mkdir()
        try:
            for part in cls.parts:
                (new / part).mkdir()
            cls(new).write_record(record or RunRecord())
            try:
                new.rename(run.path)
            except OSError:  # another command's run is there by now
                cls.check_free(runs, name)
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return run

    @classmethod
    def check_free(cls, runs: Path, name: str) -> None:
        """Raises NameInUse if a run has the name, and CallError if it could not be a folder's."""
        if not _NAME.fullmatch(name):
            raise CallError(
                f"--name expects letters, digits, '.', '_' and '-', a letter or digit first, but got {name!r}."
            )
        path = (runs / name).absolute()
        if path.exists():
            modules = [module for record, (_, module) in KINDS.items() if (path / record).is_file()]
            goes_on = f", or go on with it: {command(modules[0], '--resume', path)}" if modules else "."
            raise NameInUse(f"{path} exists already: the run name {name!r} is in use. Choose another --name{goes_on}")

    @classmethod
    def open(cls, run: str | Path, runs: Path = DEFAULT_RUNS) -> Self:
        """An existing run, by path or by its name under `runs`. Raises CallError, listing the runs there are."""
        places = [expanded(run), runs / run]
        for place in places:
            if (place / cls.record_name).is_file():
                return cls(place.absolute())
        for place in places:
            for other, (kind, module) in KINDS.items():
                if (place / other).is_file():
                    raise CallError(
                        f"{place} is {kind}, not {KINDS[cls.record_name][0]}. Go on with it: "
                        f"{command(module, '--resume', place)}"
                    )
        there = ", ".join(sorted(file.parent.name for file in runs.glob(f"[!.]*/{cls.record_name}"))) or "none"
        exists = next((place for place in places if place.exists()), None)
        what = f"{exists} is no run: it has no {cls.record_name}" if exists else f"There is no run {str(run)!r}"
        raise CallError(f"{what}. Expected a run's folder, or its name under {runs}. Runs there: {there}.")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def resume_command(self) -> str:
        """What goes on with the run."""
        return command(KINDS[self.record_name][1], "--resume", self.path)

    @property
    def record_file(self) -> Path:
        return self.path / self.record_name

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def record(self) -> RunRecord:
        """What the run says of itself. Raises DataError if it is damaged."""
        return self._read(RunRecord)

    def write_record(self, record: RunRecord) -> None:
        """Rewrite the record whole, never in place."""
        write_atomically(self.record_file, json.dumps(record.to_dict(), indent=2) + "\n")

    def write_config(self, options: Mapping[str, Any]) -> None:
        """Rewrite the call that makes such a run, by the options' names, whole."""
        write_config(self.config, options, KINDS[self.record_name][1])

    def _read(self, kind: type[_Record]) -> _Record:
        with RECORD_FILE.reading(self.record_file):
            record = kind.model_validate(RECORD_FILE.read_object(self.record_file))
        if record.format != FORMAT:
            raise DataError(
                f"{self.record_file} is of format {record.format}, and this maskcls reads format {FORMAT}. Install the "
                "version that wrote it."
            )
        return record

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Hold the run as its only driver, mended. Raises RunError if another driver holds it."""
        with self.held():
            self.mend()
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run as it is. Raises RunError if a driver holds it, also one whose lock file was removed."""
        lock = FolderLock(self.path, self.path / ".driver.lock")
        try:
            lock.acquire(wait=False)
        except filelock.Timeout:
            raise RunError(
                f"Another driver is working on {self.path}. Wait for it, or end it, and try again."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def mend(self) -> None:
        """Repair what a killed driver leaves. Only under the run's own lock."""


@dataclass(frozen=True)
class SearchRun(RunFolder):
    """One search on disk."""

    record_name: ClassVar[str] = "search.json"
    parts: ClassVar[tuple[str, ...]] = ("trials", "experiment")

    @property
    def search_file(self) -> Path:
        return self.record_file

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def experiment(self) -> Path:
        return self.path / "experiment"

    @property
    def leaderboard(self) -> Path:
        return self.path / "leaderboard.csv"

    @property
    def best(self) -> Path:
        return self.path / "best"

    def best_earlier(self) -> list[Path]:
        """The bundles that best/ held before and that were better by validation than what replaced them."""
        return sorted(self.path.glob(f"{BEST_EARLIER}*"))

    @property
    def best_on_all(self) -> Path:
        return self.path / "best-on-all"

    @property
    def finalists(self) -> Path:
        return self.path / "finalists"

    def finalist_split(self, folds: int, number: int) -> Path:
        """The file that holds one of so many folds, by its number from 0."""
        return self.finalists / "splits" / f"folds-{folds}-{number}.json"

    def predictions(self, side: str, bundle: str) -> Path:
        """The folder of what a bundle, by its digest, predicts for one side of the split."""
        return self.path / "predictions" / f"{side}-{bundle}"

    def trial(self, trial_id: str) -> Path:
        """The folder of a trial, whether or not it was begun."""
        return self.trials / trial_id

    def record(self) -> SearchRecord:
        """What search.json holds. Raises DataError if it is damaged."""
        return self._read(SearchRecord)

    def write_record(self, record: RunRecord) -> None:
        """Rewrite the record whole, never in place, with a note of how far the journal has come."""
        if isinstance(record, SearchRecord):
            record = record.changed(journal=journals.noted(record.journal, self.journal))
        super().write_record(record)

    def check_journal(self) -> None:
        """Raise DataError where the journal does not hold what it held, which no search may go on from."""
        found = journals.damage(self.journal, self.record().journal)
        if found:
            raise self.journal_error(found)

    def journal_error(self, what: str) -> DataError:
        """The error that the journal is not what it was; `what` goes on after its name."""
        return DataError(f"{self.journal} {what}. Restore it from a backup, or make it again: {self.repair_command}")

    @property
    def repair_command(self) -> str:
        """What makes the journal again from the trials' own files."""
        return command("tune.upkeep.runs", "repair", self.path)

    def next_part(self) -> str:
        """A name under experiment/ that no driver used before."""
        parts = [int(folder.name) for folder in self.experiment.iterdir() if folder.name.isdigit()]
        return f"{max(parts, default=0) + 1:03d}"

    def mend(self) -> None:
        """Repair a journal whose last line is torn, and take away the journal's lock."""
        for lock in self.path.glob(f"{self.journal.name}.lock*"):
            lock.unlink()
        if not self.journal.is_file():
            return
        with self.journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, end - _LONGEST_LINE))
            whole = start + file.read(_LONGEST_LINE).rfind(b"\n") + 1
            if whole < end and (whole > start or not start):  # else it is damaged, which its reader says
                file.truncate(whole)


@dataclass(frozen=True)
class ComparisonRun(RunFolder):
    """One list of comparisons on disk."""

    record_name: ClassVar[str] = "comparison.json"
    parts: ClassVar[tuple[str, ...]] = ("fits",)

    def record(self) -> ComparisonRecord:
        """What comparison.json holds. Raises DataError if it is damaged."""
        return self._read(ComparisonRecord)

    @property
    def table_csv(self) -> Path:
        return self.path / "table.csv"

    @property
    def table_md(self) -> Path:
        return self.path / "table.md"

    @property
    def plot(self) -> Path:
        return self.path / "differences.png"

    @property
    def study_copy(self) -> Path:
        return self.path / "study.py"

    def fit(self, fit_id: str) -> Path:
        """The folder of a fit, whether or not it was begun."""
        return self.path / "fits" / fit_id

    def repeat(self, folds: int, number: int) -> Path:
        """The file that holds the split of a repeat."""
        return self.data / "repeats" / f"{folds}-{number:03d}.json"


def remove(run: RunFolder) -> None:
    """Take back a run that was created and never begun; a kill leaves no part of it under its name."""
    new = passing(run.path)
    try:
        run.path.rename(new)
    except OSError:  # such as a disk that can no longer be written
        return
    shutil.rmtree(new, ignore_errors=True)


def passing(path: Path) -> Path:
    """Return a name beside a run's folder for one that is not whole yet, or no longer; no run's begins with a dot."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
