"""RunFolder: what every kind of run has on disk: a folder under --runs, a record in JSON, one driver at a time."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from maskcls.errors import CallError, DataError, RunError
from maskcls.files import write_atomically

DEFAULT_RUNS = Path("runs")
KINDS = {"search.json": ("a search", "tune.search"), "comparison.json": ("a comparison", "tune.compare")}
"""By the name of its record: what a run is, and the door that goes on with it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. `path` is absolute."""

    path: Path

    record_name: ClassVar[str]
    """A key of KINDS: a folder that holds this file is a run of this kind."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Folders that a new run gets."""

    @classmethod
    def create(cls, runs: Path, name: str, record: Mapping[str, Any]) -> Self:
        """A new run. Raises CallError if the name is in use or could not be a folder's."""
        cls.check_free(runs, name)
        path = (runs / name).absolute()
        path.mkdir(parents=True)
        run = cls(path)
        for part in cls.parts:
            (path / part).mkdir()
        run.write_record(record)
        return run

    @classmethod
    def check_free(cls, runs: Path, name: str) -> None:
        """Raises CallError if the name is in use or could not be a folder's."""
        if not _NAME.fullmatch(name):
            raise CallError(f"--name expects letters, digits, '.', '_' and '-', a letter or digit first, but got {name!r}.")
        path = (runs / name).absolute()
        if path.exists():
            raise CallError(
                f"{path} exists already: the run name {name!r} is in use. Choose another --name, or go on with it: --resume {name}."
            )

    @classmethod
    def open(cls, run: str | Path, runs: Path = DEFAULT_RUNS) -> Self:
        """An existing run, by path or by its name under `runs`. Raises CallError, listing the runs there are."""
        places = [Path(run).expanduser(), runs / run]
        for place in places:
            if (place / cls.record_name).is_file():
                return cls(place.absolute())
        for place in places:
            for other, (kind, door) in KINDS.items():
                if (place / other).is_file():
                    raise CallError(f"{place} is {kind}, not {KINDS[cls.record_name][0]}. Go on with it: python -m {door} --resume {place}")
        there = ", ".join(sorted(file.parent.name for file in runs.glob(f"*/{cls.record_name}"))) or "none"
        exists = next((place for place in places if place.exists()), None)
        what = f"{exists} is no run: it has no {cls.record_name}" if exists else f"There is no run {str(run)!r}"
        raise CallError(f"{what}. Expected a run's folder, or its name under {runs}. Runs there: {there}.")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def record_file(self) -> Path:
        return self.path / self.record_name

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def record(self) -> dict[str, Any]:
        """What the record holds. Raises DataError if it is damaged."""
        try:
            content: dict[str, Any] = json.loads(self.record_file.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{self.record_file} cannot be read: {error}. Restore it from a backup, or start a new run.") from None
        return content

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Rewrite the record whole, never in place."""
        write_atomically(self.record_file, json.dumps(record, indent=2) + "\n")

    @contextmanager
    def driving(self) -> Iterator[None]:
        """Hold the run as its only driver, mended. Raises RunError if another driver holds it."""
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
        """Repair what a killed driver leaves. Only under the run's own lock."""


def remove(run: RunFolder) -> None:
    """Take back a run that was created and never begun."""
    shutil.rmtree(run.path, ignore_errors=True)
