"""RunDir: the layout of `runs/<name>`, one search, and the guard that only one driver works on it.

    search.json       the call, versions, commit, hardware, data and split digests; rewritten whole, never in place
    study.journal     Optuna's record of every trial: the record that counts
    trials/<id>/      recipe.json, epochs.jsonl (the curve), error.txt of a trial that failed, and the objective's own state
    experiment/       Ray's folders, a part each time a driver starts
    leaderboard.csv   rewritten after every trial
    best/             the best trial as a bundle
    report.html       the search, to look at
    data/             photos.csv and split.json: the photos and people that every trial sees

On a cluster of several nodes the run must lie on a file system that all of them share: trials keep their state in it.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskcls.errors import CallError, DataError, RunError
from maskcls.files import write_atomically

DEFAULT_RUNS = Path("runs")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class RunDir:
    """One search on disk. `path` is absolute."""

    path: Path

    @classmethod
    def create(cls, runs: Path, name: str, search: Mapping[str, Any]) -> "RunDir":
        """A new run. Raises CallError if the name is in use or could not be a folder's."""
        cls.check_free(runs, name)
        path = (runs / name).absolute()
        path.mkdir(parents=True)
        run = cls(path)
        run.trials.mkdir()
        run.experiment.mkdir()
        run.write_search(search)
        return run

    @staticmethod
    def check_free(runs: Path, name: str) -> None:
        """Raises CallError if the name is in use or could not be a folder's."""
        if not _NAME.fullmatch(name):
            raise CallError(f"--name expects letters, digits, '.', '_' and '-', a letter or digit first, but got {name!r}.")
        path = (runs / name).absolute()
        if path.exists():
            raise CallError(
                f"{path} exists already: the run name {name!r} is in use. Choose another --name, or go on with it: --resume {name}."
            )

    @classmethod
    def open(cls, run: str | Path, runs: Path = DEFAULT_RUNS) -> "RunDir":
        """An existing run, by path or by its name under `runs`. Raises CallError, listing the runs there are."""
        places = [Path(run).expanduser(), runs / run]
        for place in places:
            if (place / "search.json").is_file():
                return cls(place.absolute())
        there = ", ".join(sorted(file.parent.name for file in runs.glob("*/search.json"))) or "none"
        exists = next((place for place in places if place.exists()), None)
        what = f"{exists} is no run: it has no search.json" if exists else f"There is no run {str(run)!r}"
        raise CallError(f"{what}. Expected a run's folder, or its name under {runs}. Runs there: {there}.")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def search_file(self) -> Path:
        return self.path / "search.json"

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

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def data(self) -> Path:
        return self.path / "data"

    def trial(self, trial_id: str) -> Path:
        """The folder of a trial, whether or not it was begun."""
        return self.trials / trial_id

    def search(self) -> dict[str, Any]:
        """What search.json holds. Raises DataError if it is damaged."""
        try:
            content: dict[str, Any] = json.loads(self.search_file.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{self.search_file} cannot be read: {error}. Restore it from a backup, or start a new run.") from None
        return content

    def write_search(self, search: Mapping[str, Any]) -> None:
        write_atomically(self.search_file, json.dumps(search, indent=2) + "\n")

    def next_part(self) -> str:
        """A name under experiment/ that no driver used before."""
        parts = [int(folder.name) for folder in self.experiment.iterdir() if folder.name.isdigit()]
        return f"{max(parts, default=0) + 1:03d}"

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Hold the run as its only driver, its journal mended. Raises RunError if another driver holds it."""
        import filelock

        lock = filelock.FileLock(self.path / ".driver.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunError(f"Another driver is working on {self.path}. Wait for it, or end it, and try again.") from None
        try:
            self.mend()
            yield
        finally:
            lock.release()

    def mend(self) -> None:
        """Repair what a killed driver leaves: a journal whose last line is torn, and the journal's lock. Only under the run's own lock."""
        for lock in self.path.glob(f"{self.journal.name}.lock*"):
            lock.unlink()
        if not self.journal.exists():
            return
        with self.journal.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)


def remove(run: RunDir) -> None:
    """Take back a run that was created and never begun."""
    shutil.rmtree(run.path, ignore_errors=True)
