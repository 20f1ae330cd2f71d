"""RunDir: the layout of `runs/<name>`, one search.

    search.json       the call, versions, commit, hardware, data and split digests; rewritten whole, never in place
    study.journal     Optuna's record of every trial: the record that counts
    trials/<id>/      recipe.json, epochs.jsonl (the curve), error.txt of a trial that failed, and the objective's own state
    finalists/        <fit id>/: the finalists' repeats (`tune.fits`), each with answers.npz; splits/: the folds they were trained on
    experiment/       Ray's folders, a part each time a driver starts
    leaderboard.csv   rewritten after every trial
    best/             the best trial as a bundle
    best-on-all/      the winner's recipe trained on train and validation people together, a bundle that has no score
    report.html       the search, to look at
    data/             photos.csv and split.json: the photos and people that every trial sees

On a cluster of several nodes the run must lie on a file system that all of them share: trials keep their state in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tune.run_folder import DEFAULT_RUNS, RunFolder, remove

__all__ = ["DEFAULT_RUNS", "RunDir", "remove"]


@dataclass(frozen=True)
class RunDir(RunFolder):
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

    @property
    def best_on_all(self) -> Path:
        return self.path / "best-on-all"

    @property
    def finalists(self) -> Path:
        return self.path / "finalists"

    def finalist_split(self, folds: int, number: int) -> Path:
        """The file that holds one of so many folds, by its number from 0."""
        return self.finalists / "splits" / f"folds-{folds}-{number}.json"

    def trial(self, trial_id: str) -> Path:
        """The folder of a trial, whether or not it was begun."""
        return self.trials / trial_id

    def search(self) -> dict[str, Any]:
        """What search.json holds. Raises DataError if it is damaged."""
        return self.record()

    def write_search(self, search: Mapping[str, Any]) -> None:
        self.write_record(search)

    def next_part(self) -> str:
        """A name under experiment/ that no driver used before."""
        parts = [int(folder.name) for folder in self.experiment.iterdir() if folder.name.isdigit()]
        return f"{max(parts, default=0) + 1:03d}"

    def mend(self) -> None:
        """Repair a journal whose last line is torn, and take away the journal's lock."""
        for lock in self.path.glob(f"{self.journal.name}.lock*"):
            lock.unlink()
        if not self.journal.exists():
            return
        with self.journal.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
