"""The scores on the holdout in a search.json: read and written here alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from maskcls.text import counted
from tune.runs.record import SearchRecord, damaged, typed

_EVALUATIONS = "looks"
"""Key of search.json: {"holdout": {"looks": [a HoldoutEvaluation, ...]}}."""


@dataclass(frozen=True)
class HoldoutScore:
    """A bundle's macro F1 on the holdout people, with its 95 % interval over people."""

    what: str
    """For people, as in `trial 0007`."""
    when: str
    f1: float
    low: float
    high: float
    people: int
    photos: int
    bundle: str
    """Digest of the bundle."""

    @property
    def interval(self) -> str:
        """The interval as text, as in `[0.4711, 0.5912]`."""
        return f"[{self.low:.4f}, {self.high:.4f}]"

    @property
    def people_text(self) -> str:
        """The number of people as text, as in `69 people`."""
        return counted(self.people, "person", "people")


@dataclass(frozen=True)
class HoldoutEvaluation(HoldoutScore):
    """A bundle's score on the holdout people with every metric."""

    scores: dict[str, Any]
    """All of `maskcls.training.metrics.Scores`, ready for JSON."""


def holdout_evaluations(search: SearchRecord) -> list[HoldoutEvaluation]:
    """Every evaluation on the holdout in the content of a search.json, oldest first."""
    try:
        return typed(list[HoldoutEvaluation], (search.holdout or {}).get(_EVALUATIONS, []))
    except ValueError as error:
        raise damaged("holdout", error) from None


def with_evaluations(search: SearchRecord, evaluations: Sequence[HoldoutEvaluation]) -> SearchRecord:
    """Return the record with these evaluations in place of those that it has."""
    return search.changed(holdout={_EVALUATIONS: [asdict(one) for one in evaluations]})
