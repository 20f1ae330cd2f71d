"""The results of a run's fits: for each arm of each comparison its scores, and the paired difference to its base."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from maskcls.labels import N_CLASSES, UNKNOWN, stratum_of
from maskcls.text import counted
from maskcls.training.metrics import Scores, scores
from tune.compare.arms import Arm, PlannedComparison
from tune.compare.corrected import JUDGED
from tune.compare.fits import ANSWERS, ANSWERS_FILE, Evaluation, column
from tune.fitting.result import FitResult
from tune.runs.folder import ComparisonRun
from tune.states import TrialState
from tune.statistics.paired import Difference, Repeat, difference, expected_by_chance

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split

NOT_DONE = "not done"


@dataclass(frozen=True)
class Row:
    """One arm of the table. Its scores are on people who took no part in training or in the choice of the epoch."""

    comparison: str
    variant: str
    n: int
    """Repeats that count: complete ones, and for a variant those whose base is complete as well."""
    f1: Mapping[int, float]
    """Macro F1 by repeat, from 0, of the repeats that count."""
    difference: Difference | None
    """To the base; None for the base itself, and where no repeat counts."""
    seconds_mean: float
    """Of a complete fit; nan where there is none."""
    states: Mapping[str, int]
    """How many fits are complete, diverged, out of memory, not done, or failed.

    A fit counts as failed for an arm as well if it is complete, but its evaluation for that arm raised an error.
    """
    task_f1: Mapping[str, float]
    """Mean over the repeats that count."""
    validation_f1_mean: float
    """Of the epoch that was tested, on the people who picked it, as a search sees it; nan where no repeat counts."""
    is_base: bool = False

    @property
    def verdict(self) -> str:
        """The verdict of the difference; "" for the base, and where no repeat counts.

        Where a fit diverged, it says so instead: the repeats that did not diverge are a selection of the lucky ones.
        """
        if self.states.get(TrialState.DIVERGED):
            return f"diverged {self.states[TrialState.DIVERGED]} of {sum(self.states.values())}"
        return self.difference.verdict if self.difference else ""

    @property
    def f1_mean(self) -> float:
        """Mean macro F1 of the repeats that count; nan where none does."""
        return float(np.mean(list(self.f1.values()))) if self.f1 else math.nan

    @property
    def f1_sd(self) -> float:
        """Standard deviation over the repeats (n - 1); nan for fewer than two."""
        return float(np.std(list(self.f1.values()), ddof=1)) if len(self.f1) > 1 else math.nan


@dataclass(frozen=True)
class Results:
    """All rows, comparison by comparison, each base before its variants."""

    rows: tuple[Row, ...]
    repeats: int
    people: int
    """Different people on whose photos something was compared."""
    photos: int
    """Different photos on which something was compared."""

    def rows_of(self, comparison: str) -> list[Row]:
        """The rows of one comparison, the base first."""
        return [row for row in self.rows if row.comparison == comparison]

    @cached_property
    def n_verdicts(self) -> int:
        """How many differences could have a verdict: those of at least two repeats none of which diverged."""
        return sum(
            row.difference is not None and row.difference.n > 1 and not row.states.get(TrialState.DIVERGED)
            for row in self.rows
        )

    @property
    def lack_scores(self) -> bool:
        """Whether no fit of any arm is complete, so that there is nothing to compare."""
        return not any(row.states.get(TrialState.COMPLETE) for row in self.rows)

    @property
    def chance_note(self) -> str:
        """A sentence on how many verdicts are to be expected where nothing differs."""
        return (
            f"Of {counted(self.n_verdicts, 'difference')}, about {expected_by_chance(self.n_verdicts):.2g} would be "
            "called better or worse by chance alone if none were real."
        )


def read_results(
    run: ComparisonRun, comparisons: Sequence[PlannedComparison], splits: Sequence[Split], faces: FaceDataset
) -> Results:
    """The rows of all comparisons, from the fits that are done so far."""
    everybody = _FinishedFits(run, splits, faces)
    some = _FinishedFits(run, splits, faces, only_judged=True) if any(one.judged for one in comparisons) else everybody
    rows = [row for one in comparisons for row in _rows(one, some if one.judged else everybody)]
    return Results(tuple(rows), len(splits), *everybody.tested())


def _rows(comparison: PlannedComparison, fits: _FinishedFits) -> list[Row]:
    done = {arm.name: fits.complete(arm) for arm in comparison.arms}
    of_base = done[comparison.base.name]
    rows = [fits.row(comparison.name, comparison.base, of_base, None, is_base=True)]
    for variant in comparison.variants:
        both = [number for number in done[variant.name] if number in of_base]  # the repeats that can be paired
        found = difference([fits.pair(number, comparison.base, variant) for number in both]) if both else None
        rows.append(fits.row(comparison.name, variant, both, found))
    return rows


class _FinishedFits:
    """The results of a run's fits, each file read once."""

    def __init__(
        self, run: ComparisonRun, splits: Sequence[Split], faces: FaceDataset, *, only_judged: bool = False
    ) -> None:
        self._run, self._splits, self._digest = run, splits, faces.digest
        # Only photos with all labels are tested, so only their strata are needed.
        people = faces.photos[faces.photos["label"] != UNKNOWN].set_index("key")
        self._judged = people.index[people[JUDGED] == 1] if only_judged else None
        """Keys of the photos that count; None: all."""
        self._person = people["person"]
        self._stratum = people["label"].map(stratum_of).astype("int64")
        self._results: dict[str, FitResult | None] = {}
        self._predictions: dict[str, pd.DataFrame] = {}

    def complete(self, arm: Arm) -> list[int]:
        """The repeats in which the arm's fit is complete and was evaluated for the arm, on any photo that counts."""
        evaluated = [number for number in range(len(self._splits)) if self._evaluation(arm, number) is not None]
        return [number for number in evaluated if self._judged is None or len(self._table(arm, number))]

    def pair(self, number: int, base: Arm, variant: Arm) -> Repeat:
        """What base and variant predicted for the tested photos of a repeat."""
        one, other = (self._table(arm, number) for arm in (base, variant))
        keys = one.index
        return Repeat(
            truth=one["truth"].to_numpy(np.int64),
            base=one[column(base.treatment)].to_numpy(np.int64),
            # The photos are the same, but two files need not have them in one order.
            variant=other.loc[keys, column(variant.treatment)].to_numpy(np.int64),
            person=self._person[keys].to_numpy(object),
            stratum=self._stratum[keys].to_numpy(np.int64),
        )

    def row(
        self, comparison: str, arm: Arm, repeats: Sequence[int], found: Difference | None, is_base: bool = False
    ) -> Row:
        """The arm's row over these repeats."""
        evaluations = {number: one for number in repeats if (one := self._evaluation(arm, number)) is not None}
        scored = {number: its for number in evaluations if (its := self._scores(arm, number)) is not None}
        results = [self._result(arm, number) for number in range(len(self._splits))]
        seconds = [result.seconds for result in results if result and result.state == TrialState.COMPLETE]
        validation = [one.validation_f1 for one in evaluations.values()]
        tasks = [one.task_f1 for one in scored.values()]
        return Row(
            comparison=comparison,
            variant=arm.name,
            n=len(repeats),
            f1={number: one.f1 for number, one in scored.items()},
            difference=found,
            seconds_mean=float(np.mean(seconds)) if seconds else math.nan,
            states=Counter(self._state(arm, number) for number in range(len(self._splits))),
            task_f1={name: float(np.mean([task[name] for task in tasks])) for name in tasks[0]} if tasks else {},
            validation_f1_mean=float(np.mean(validation)) if validation else math.nan,
            is_base=is_base,
        )

    def tested(self) -> tuple[int, int]:
        """How many people and photos something was compared on, each counted once."""
        keys = {key for table in self._predictions.values() for key in table.index}
        return self._person[list(keys)].nunique(), len(keys)

    def _id(self, arm: Arm, number: int) -> str:
        """The id of the arm's fit in a repeat; arms whose fits would be equal share it."""
        return arm.fit_id(number, self._splits[number].digest, self._digest)

    def _result(self, arm: Arm, number: int) -> FitResult | None:
        fit_id = self._id(arm, number)
        if fit_id not in self._results:
            self._results[fit_id] = FitResult.read(self._run.fit(fit_id))
        return self._results[fit_id]

    def _evaluation(self, arm: Arm, number: int) -> Evaluation | None:
        """The arm's evaluation in a repeat; None where there is none, or it failed."""
        result = self._result(arm, number)
        found = self._asked_evaluation(arm, number, result) if result else None
        return found if found is not None and found.scores is not None else None

    def _asked_evaluation(self, arm: Arm, number: int, result: FitResult) -> Evaluation | None:
        """The arm's evaluation in a result; None where the fit ran before a variant asked for it."""
        return Evaluation.of(result, arm.treatment, self._run.fit(self._id(arm, number)))

    def _scores(self, arm: Arm, number: int) -> Scores | None:
        """The scores of the arm's evaluation in a repeat, on the photos that count."""
        if self._judged is None:
            found = self._evaluation(arm, number)
            return found.scores if found is not None else None
        table = self._table(arm, number)
        return scores(table["truth"].to_numpy(np.int64), table[column(arm.treatment)].to_numpy(np.int64))

    def _state(self, arm: Arm, number: int) -> str:
        result = self._result(arm, number)
        if result is None:
            return NOT_DONE
        if result.state != TrialState.COMPLETE:
            return str(result.state)
        found = self._asked_evaluation(arm, number, result)
        return NOT_DONE if found is None else TrialState.COMPLETE if found.scores else TrialState.FAILED

    def _answers(self, text: str) -> pd.DataFrame:
        """The table of answers that a text holds. Raises ValueError and the like where it holds something else."""
        table = pd.read_csv(io.StringIO(text), dtype={"key": str}, keep_default_na=False).set_index("key")
        for name in ("truth", *table.columns):
            if not table[name].isin(range(N_CLASSES)).all():
                raise ValueError(f"{name} holds something else than classes from 0 to {N_CLASSES - 1}")
        if not table.index.is_unique or not table.index.isin(self._person.index).all():
            raise ValueError("it has rows that are of no tested photo, or two of one")
        return table

    def _table(self, arm: Arm, number: int) -> pd.DataFrame:
        """answers.csv of the arm's fit: one row per tested photo that counts, indexed by its key."""
        fit_id = self._id(arm, number)
        if fit_id not in self._predictions:
            file = self._run.fit(fit_id) / ANSWERS
            with ANSWERS_FILE.reading(file):
                table = self._answers(ANSWERS_FILE.read_text(file))
            self._predictions[fit_id] = table if self._judged is None else table[table.index.isin(self._judged)]
        return self._predictions[fit_id]
