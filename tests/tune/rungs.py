"""The rungs of ASHA, for tests: Ray keeps them in private attributes, as the contract tests hold."""

from __future__ import annotations

from tune.search.schedulers import EpochASHA


def recorded(scheduler: EpochASHA) -> list[tuple[float, dict[str, float]]]:
    """(epoch, value by trial) of each rung, the last first."""
    return list(scheduler._brackets[0]._rungs)


def rungs_of(scheduler: EpochASHA) -> list[tuple[float, list[float]]]:
    """(epoch, values recorded there, sorted) of each rung, the last first."""
    return [(epoch, sorted(values.values())) for epoch, values in recorded(scheduler)]
