"""Does it pay to stop trials early? The best trial of a search after equal budgets, replayed on recorded tables.

    python -m tests.benchmarks.early_stopping --table stages --seeds 60                # docs/luck.md has the tables
    python -m tests.benchmarks.early_stopping --table splits --seeds 400 --sampler random --seconds --parallel 4

Each search has seeds from 0 on. A budget is so many epochs, or CPU seconds, as a number of whole trials takes (of the
table's mean recipe); a search that stops trials early tries more of them in it. A budget counts what all workers have
spent. The score of a search is that of its best trial so far.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from maskcls.cli import run
from tests.benchmarks.recorded_table import TABLES, Table
from tests.benchmarks.replay import Cost, Report, Shuffled, in_epochs, in_seconds, plan_of, replay, searcher_of
from tests.benchmarks.report import paired, write
from tune.search.plan import RANDOM, TPE
from tune.search.schedulers import EpochASHA, EpochMedian, EpochScheduler, NoEarlyStopping

WHOLE_TRIALS = (12, 24, 48)
NONE, ASHA, FORMER = "none", "asha", "1/4, third"
SCHEDULERS: Mapping[str, Callable[[int], EpochScheduler]] = {
    NONE: NoEarlyStopping,
    ASHA: EpochASHA,
    "1/2, third": lambda epochs: EpochASHA(epochs, reduction=3),
    "3/8, half": lambda epochs: EpochASHA(epochs, grace=3 * epochs // 8),
    "1/4, half": lambda epochs: EpochASHA(epochs, grace=epochs // 4),
    FORMER: lambda epochs: EpochASHA(epochs, grace=epochs // 4, reduction=3),
    "1/8, half": lambda epochs: EpochASHA(epochs, grace=epochs // 8),
    "median": EpochMedian,
}
"""By name: none, the default's rungs, others by the first rung's part of the epochs and who passes, and the median."""
WITH_TPE = (NONE, ASHA, FORMER)
"""Those that are searched with TPE, which takes longer."""


def budgets(table: Table, cost: Cost, largest: int) -> list[float]:
    """What 12, 24, ... whole trials of the table's mean recipe take, at most `largest` of them."""
    whole = fmean(table.epochs * cost(recorded) for recorded in table.rows.values())
    return [trials * whole for trials in WHOLE_TRIALS if trials <= largest]


def search(
    table: Table, scheduler: str, seed: int, folder: Path | None, *, parallel: int, cost: Cost
) -> Iterator[Report]:
    """Search with TPE, or at random if there is no folder for a study."""
    trials = len(table.rows)
    plan = plan_of(table, trials, seed, sampler=TPE, parallel=parallel)
    searcher = Shuffled(table, seed) if folder is None else searcher_of(plan, folder / scheduler.replace("/", "_"))
    return replay(table, searcher, SCHEDULERS[scheduler](table.epochs), trials=trials, parallel=parallel, cost=cost)


def best_within(reports: Iterator[Report], spend: Sequence[float]) -> list[float]:
    """The macro F1 of the best trial within each of the budgets, which grow."""
    bests = [(report.spent, report.best_f1) for report in takewhile(lambda one: one.spent <= spend[-1], reports)]
    return [max(best for spent, best in bests if spent <= budget) for budget in spend]


def lines(results: Mapping[str, Sequence[Sequence[float]]], largest: int) -> str:
    """One line per scheduler: after each budget the mean, and its difference to no stopping with its standard error."""
    counts = [trials for trials in WHOLE_TRIALS if trials <= largest]
    found = [f"{'':12}" + "".join(f"{f'in the time of {n}':>28}" for n in counts) + f"{'n':>6}"]
    for scheduler, searches in results.items():
        columns = zip(zip(*searches, strict=True), zip(*results[NONE], strict=True), strict=True)
        found.append(
            f"{scheduler:12}" + "".join(f"{paired(ours, base):>28}" for ours, base in columns) + f"{len(searches):6}"
        )
    return "\n".join(found)


def main(
    name: Annotated[str, typer.Option("--table", help=f"{' or '.join(TABLES)}.")] = "stages",
    seeds: Annotated[int, typer.Option(min=2, help="Searches with each scheduler.")] = 60,
    sampler: Annotated[str, typer.Option(help=f"{TPE} or {RANDOM}.")] = TPE,
    largest: Annotated[int, typer.Option(min=WHOLE_TRIALS[0], help="Whole trials of the largest budget.")] = 48,
    parallel: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    seconds: Annotated[bool, typer.Option("--seconds", help="Budgets of CPU seconds instead of epochs.")] = False,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path(
        "runs/benchmarks/early_stopping.json"
    ),
) -> None:
    """Search, and print the table."""
    table, cost = TABLES[name], in_seconds if seconds else in_epochs
    spend = budgets(table, cost, largest)
    results: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = None if sampler == RANDOM else Path(made)
        for scheduler in SCHEDULERS if sampler == RANDOM else WITH_TPE:
            results[scheduler] = [
                best_within(search(table, scheduler, seed, folder, parallel=parallel, cost=cost), spend)
                for seed in range(seeds)
            ]
    print(lines(results, largest))
    record = {scheduler: {"n": seeds, "values": values} for scheduler, values in results.items()}
    write(out, record, table=name, sampler=sampler, budgets=spend, parallel=parallel, seconds=seconds)


if __name__ == "__main__":
    run(main)
