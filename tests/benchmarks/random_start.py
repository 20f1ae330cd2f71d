"""When should TPE's model begin to suggest? Searches that differ in nothing else, replayed on a recorded table.

    python -m tests.benchmarks.random_start --seeds 200 --trials 12     # docs/luck.md has the tables
    python -m tests.benchmarks.random_start --seeds 50 --only 4 --until-best    # epochs until one of the best 1 %

The search's own searcher and scheduler work on the table of real results (`recorded_table`), called as Ray calls them,
so nothing is trained, and Ray is not needed. All trials take equally long. In the first kind they are trained to their
end, `parallel` of them at a time, so a trial is suggested without the scores of those that run beside it; and a
search's first k trials are the same however many follow, so that one search tells the best score after fewer, too.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from maskcls.cli import run
from search_spaces import Setting, Space
from tests.benchmarks.beats_luck import FIRST, threshold
from tests.benchmarks.beats_luck import table as epochs_table
from tests.benchmarks.recorded_table import SPACE, base_recipe, read_table, row_key, suggest
from tests.benchmarks.report import write
from tune.runs.folder import SearchRun
from tune.search import schedulers
from tune.search.first_trials import enqueue_initial_trials
from tune.search.plan import ASHA, NONE, RANDOM, TPE, SearchPlan
from tune.search.schedulers import EpochASHA
from tune.search.searcher import StudySearch
from tune.states import FIDELITY, METRIC, TrialState

STARTS: dict[str, tuple[str, int]] = {"random": (RANDOM, 0), **{str(n): (TPE, n) for n in (10, 5, 4, 3)}}
"""The sampler, and how many trials must have ended before its model suggests."""
BASE = "10"
"""Optuna's own number, to which the others are compared."""
TRIALS = (12, 24, 48)
KNOWN = (
    {"frozen_stages": 1, "lr_head_step": 1, "lr_body_step": 1, "sampler": "none", "loss": "cross_entropy"},
    {"frozen_stages": 3, "lr_head_step": 1, "lr_body_step": 2, "sampler": "none", "loss": "cross_entropy"},
    {"frozen_stages": 0, "lr_head_step": 1, "lr_body_step": 2, "sampler": "none", "loss": "cross_entropy"},
)
"""Points of the table near those of the space `freezing`."""


def replay(start: str, seed: int, parallel: int, trials: int, folder: Path, *, points: bool = False) -> list[float]:
    """Search, and return the best macro F1 after each trial, in the order in which the trials were begun."""
    sampler, random_start = STARTS[start]
    space = Space("recorded", SPACE.question, suggest, lambda setting: list(KNOWN)) if points else SPACE
    base = base_recipe("none").override(FIRST)
    plan = SearchPlan(space, Setting("cpu"), base, {}, trials, seed, sampler=sampler, random_start=random_start)
    made = SearchRun.create(folder, f"{start}-{parallel}-{seed}")
    searcher = StudySearch(plan, made)
    enqueue_initial_trials(searcher.study, plan)
    best: dict[int, float] = {}
    running: list[tuple[str, Mapping[str, Any]]] = []
    for number in range(trials):
        config = searcher.suggest(str(number))
        assert isinstance(config, dict)
        running.append((str(number), config["recipe"]))
        if len(running) == parallel:
            _end(searcher, *running.pop(0), best)
    while running:
        _end(searcher, *running.pop(0), best)
    return list(accumulate((best[number] for number in range(trials)), max))


def _end(searcher: StudySearch, key: str, recipe: Mapping[str, Any], best: dict[int, float]) -> None:
    """Report the last epoch of a trial, whose running best is what the sampler learns."""
    curve = read_table()[row_key(dict(recipe))]
    best[int(key)] = max(curve)
    row = {"epoch": len(curve), "best_f1": max(curve), "seconds": 1.0, "state": TrialState.COMPLETE}
    searcher.on_trial_complete(key, row)


def epochs_to_best(start: str, scheduler: str, seed: int, folder: Path) -> float:
    """Search, one trial at a time, and return the epochs until one of the best 1 % was found; infinite if none was."""
    sampler, random_start = STARTS[start]
    base = base_recipe("none").override(FIRST)
    plan = SearchPlan(SPACE, Setting("cpu"), base, {}, len(read_table()), seed, sampler=sampler, scheduler=scheduler)
    searcher = StudySearch(replace(plan, random_start=random_start), SearchRun.create(folder, f"{start}-{seed}"))
    enqueue_initial_trials(searcher.study, plan)
    decides = schedulers.create(scheduler, base.epochs)
    spent = 0
    for number in map(str, range(plan.trials)):
        config = searcher.suggest(number)
        if not isinstance(config, dict) or "recipe" not in config:
            break
        trial = SimpleNamespace(config=config)
        decides.on_trial_add(None, trial)
        curve = list(accumulate(read_table()[row_key(config["recipe"])], max))
        row: dict[str, Any] = {}
        for epoch, best in enumerate(curve, start=1):
            spent += 1
            if best >= threshold():
                return spent
            row = {FIDELITY: epoch, METRIC: best, "state": TrialState.RUNNING}
            searcher.on_trial_result(number, row)
            if epoch == len(curve):
                row["state"] = TrialState.COMPLETE
            elif decides.on_trial_result(None, trial, row) == EpochASHA.STOP:
                break
        searcher.on_trial_complete(number, row)
        decides.on_trial_complete(None, trial, row)
    return math.inf


def table(results: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """One line per start: after each number of trials the mean, and its difference to BASE with its standard error."""
    counts = [n for n in TRIALS if n <= len(results[BASE][0])]
    lines = [f"{'':8}" + "".join(f"{f'after {n}':>28}" for n in counts) + f"{'n':>6}"]
    for start, searches in results.items():
        cells = []
        for n in counts:
            ours, base = ([best[n - 1] for best in of] for of in (searches, results[BASE]))
            differences = [a - b for a, b in zip(ours, base, strict=True)]
            error = stdev(differences) / math.sqrt(len(differences))
            cells.append(f"{mean(ours):.4f} ({mean(differences):+.4f} +- {error:.4f})")
        lines.append(f"{start:8}" + "".join(f"{cell:>28}" for cell in cells) + f"{len(searches):6}")
    return "\n".join(lines)


def main(
    seeds: Annotated[int, typer.Option(help="Searches of each kind.")] = 40,
    trials: Annotated[int, typer.Option(min=min(TRIALS), help="Of each search.")] = TRIALS[-1],
    parallel: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    points: Annotated[bool, typer.Option("--points", help="Three known points follow trial 0.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Some of the starts; random and 10 always.")] = None,
    until_best: Annotated[bool, typer.Option("--until-best", help="Count epochs until one of the best 1 %.")] = False,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/random_start.json"),
) -> None:
    """Search, and print the table."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for start in (key for key in STARTS if key in ("random", BASE, *(only or STARTS))):
            if not until_best:
                folder = Path(name)
                results[start] = [replay(start, seed, parallel, trials, folder, points=points) for seed in range(seeds)]
                continue
            for scheduler in (NONE,) if start == "random" else (NONE, ASHA):
                folder = Path(name) / scheduler
                results[start if scheduler == NONE else f"{start} + {scheduler}"] = [
                    epochs_to_best(start, scheduler, seed, folder) for seed in range(seeds)
                ]
    print(epochs_table(results) if until_best else table(results))
    record = {
        start: {"n": seeds, "values": [None if value == math.inf else value for value in values]}
        for start, values in results.items()
    }
    write(out, record, trials=trials, parallel=parallel, points=points, until_best=until_best)


if __name__ == "__main__":
    run(main)
