"""CompareDir: the layout of `runs/<name>`, one list of comparisons.

    comparison.json   the call, the comparisons, versions, commit, hardware, data and split digests; rewritten whole, never in place
    data/             photos.csv and split.json: photos and people; repeats/<k>-<i>.json: the split of repeat i of k folds
    fits/<id>/        one fit of one repeat (`tune.fits`): recipe.json, epochs.jsonl, answers.csv, result.json
    table.csv         a row a variant; table.md the same, for a document
    differences.png   the differences, to look at
    report.html       all of it as a page
    study.py          a copy of a study of one's own

On a cluster of several nodes the run must lie on a file system that all of them share.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tune.run_folder import RunFolder


@dataclass(frozen=True)
class CompareDir(RunFolder):
    """One list of comparisons on disk."""

    record_name: ClassVar[str] = "comparison.json"
    parts: ClassVar[tuple[str, ...]] = ("fits",)

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
