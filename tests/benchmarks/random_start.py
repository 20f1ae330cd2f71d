"""When should TPE's model begin to suggest? Searches that differ in nothing else, replayed on a recorded table.

    python -m tests.benchmarks.random_start --seeds 200 --trials 12     # docs/luck.md has the tables

All trials take equally long and are trained to their end (`replay`), `parallel` of them at a time, so a trial is
suggested without the scores of those that run beside it; and a search's first k trials are the same however many
follow, so that one search tells the best score after fewer, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import typer

from maskcls.cli import run
from tests.benchmarks.recorded_table import STAGES
from tests.benchmarks.replay import plan_of, replay_plan
from tests.benchmarks.report import paired, write
from tune.search.plan import NONE, RANDOM, TPE

STARTS: dict[str, tuple[str, int]] = {"random": (RANDOM, 0), **{str(n): (TPE, n) for n in (10, 5, 4, 3)}}
"""The sampler, and how many trials must have ended before its model suggests."""
BASE = "10"
"""Optuna's own number, to which the others are compared."""
TRIALS = (12, 24, 48)


def best_after(start: str, seed: int, parallel: int, trials: int, folder: Path, *, points: bool = False) -> list[float]:
    """Search, and return the best macro F1 after each trial, in the order in which the trials were begun."""
    sampler, random_start = STARTS[start]
    plan = plan_of(STAGES, trials, seed, sampler=sampler, scheduler=NONE, random_start=random_start, parallel=parallel)
    if points:
        known = [dict(point) for point in STAGES.points]
        plan = replace(plan, space=replace(plan.space, points=lambda setting: known))
    best = {report.trial: report.best_f1 for report in replay_plan(STAGES, plan, folder / f"{start}-{parallel}")}
    return list(accumulate((best[number] for number in range(trials)), max))


def table(results: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """One line per start: after each number of trials the mean, and its difference to BASE with its standard error."""
    counts = [n for n in TRIALS if n <= len(results[BASE][0])]
    lines = [f"{'':8}" + "".join(f"{f'after {n}':>28}" for n in counts) + f"{'n':>6}"]
    for start, searches in results.items():
        cells = [paired([best[n - 1] for best in searches], [best[n - 1] for best in results[BASE]]) for n in counts]
        lines.append(f"{start:8}" + "".join(f"{cell:>28}" for cell in cells) + f"{len(searches):6}")
    return "\n".join(lines)


def main(
    seeds: Annotated[int, typer.Option(help="Searches of each kind.")] = 40,
    trials: Annotated[int, typer.Option(min=min(TRIALS), help="Of each search.")] = TRIALS[-1],
    parallel: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    points: Annotated[bool, typer.Option("--points", help="Three known points follow trial 0.")] = False,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/random_start.json"),
) -> None:
    """Search, and print the table."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for start in STARTS:
            results[start] = [
                best_after(start, seed, parallel, trials, Path(name), points=points) for seed in range(seeds)
            ]
    print(table(results))
    record = {start: {"n": seeds, "values": values} for start, values in results.items()}
    write(out, record, trials=trials, parallel=parallel, points=points)


if __name__ == "__main__":
    run(main)
