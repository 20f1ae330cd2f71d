"""Does the search beat random search? Epochs until each finds one of the best 1 % of a recorded table's recipes.

    python -m tests.benchmarks.beats_luck --seeds 50        # docs/luck.png and runs/benchmarks/beats_luck.json

The searches are random search, TPE, and TPE with ASHA. Each runs the real driver on Ray over the recorded table of real
curves (`recorded_table`), so nothing is trained: one trial at a time, with the same recipe as trial 0. A search has
found one of the best when one of its trials reports the macro F1 that only the table's best 1 % reach at any epoch. It
is extended, a few trials at a time, until then, or until every recipe of the table was tried.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer

from maskcls.cli import run
from maskcls.reports.plots import STYLE, legend, new_figure, to_png
from search_spaces import Setting
from tests.benchmarks.recorded_table import SPACE, base_recipe, read_table, recorded_objective
from tests.benchmarks.report import write
from tune.runs import cluster
from tune.runs.folder import SearchRun
from tune.runs.study import open_study
from tune.search.driver import run_search
from tune.search.plan import ASHA, NONE, RANDOM, TPE, SearchPlan

BEST_SHARE = 0.01
CHUNK = 24
METHODS = {"random": (RANDOM, NONE), "TPE": (TPE, NONE), "TPE + ASHA": (TPE, ASHA)}
COLOURS = {"random": "#a9b4be", "TPE": "#e3a72f", "TPE + ASHA": "#1f6f8b"}
FIRST = {"frozen_stages": 3, "lr_head": 1.5e-3, "lr_body": 6e-4, "sampler": "none", "loss": "cross_entropy"}
"""Trial 0: a recipe in the middle of the table."""


@dataclass(frozen=True)
class Search:
    """One search: the running bests of its trials, one per epoch, in the order in which the epochs were spent."""

    reported: tuple[float, ...]

    def epochs_to(self, threshold: float) -> float:
        """Epochs spent until a trial reported at least the threshold; infinite if none did."""
        return next((epoch for epoch, f1 in enumerate(self.reported, start=1) if f1 >= threshold), math.inf)

    def best_after(self, epochs: int) -> float:
        """The best macro F1 reported within so many epochs."""
        return max(self.reported[:epochs])


def threshold() -> float:
    """The macro F1 that the best 1 % of the table's recipes reach at some epoch, and no other does."""
    best = sorted((max(curve) for curve in read_table().values()), reverse=True)
    return best[math.ceil(BEST_SHARE * len(best)) - 1]


def search(method: str, seed: int, folder: Path, trials: int | None = None) -> Search:
    """Run the real driver, one trial at a time, until one of the best is found; or for a number of trials."""
    sampler, scheduler = METHODS[method]
    made = SearchRun.create(folder, f"{method.replace(' + ', '-')}-{seed}")
    base = base_recipe("none").override(FIRST)
    wanted = trials or CHUNK
    while True:
        plan = SearchPlan(SPACE, Setting("cpu"), base, {}, wanted, seed, sampler=sampler, scheduler=scheduler)
        run_search(plan, made, recorded_objective, plain=True)
        found = Search(reported(made))
        if trials or found.epochs_to(threshold()) < math.inf or wanted >= len(read_table()):
            return found
        wanted = min(wanted + CHUNK, len(read_table()))


def reported(made: SearchRun) -> tuple[float, ...]:
    """What the trials of a run reported to Optuna, trial by trial."""
    trials = open_study(made).get_trials(deepcopy=False)
    return tuple(value for trial in trials for _, value in sorted(trial.intermediate_values.items()))


def main(
    seeds: Annotated[int, typer.Option(help="Searches of each method.")] = 50,
    figure: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("docs/luck.png"),
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/beats_luck.json"),
    first_seed: Annotated[
        int, typer.Option(help="The first seed; two halves may run side by side and be read together.")
    ] = 0,
    read: Annotated[list[Path] | None, typer.Option(help="Records to read together instead of searching.")] = None,
) -> None:
    """Search, print the table, draw the picture."""
    budgets = _read(read) if read else _search(range(first_seed, first_seed + seeds))
    print(table(budgets))
    draw(budgets, figure)
    finite = {
        method: [epochs if epochs < math.inf else None for epochs in values] for method, values in budgets.items()
    }
    write(
        out, {method: {"n": len(values), "epochs": values} for method, values in finite.items()}, threshold=threshold()
    )


def _search(seeds: Sequence[int]) -> dict[str, list[float]]:
    budgets: dict[str, list[float]] = {method: [] for method in METHODS}
    with cluster.connected(None), tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for method in METHODS:
                budgets[method].append(search(method, seed, Path(folder)).epochs_to(threshold()))
    return budgets


def _read(files: Sequence[Path]) -> dict[str, list[float]]:
    records = [json.loads(file.read_text())["results"] for file in files]
    return {
        method: [math.inf if epochs is None else epochs for one in records for epochs in one[method]["epochs"]]
        for method in METHODS
    }


def table(budgets: Mapping[str, Sequence[float]]) -> str:
    """One line per method: quantiles of the epochs, their median as a share of random search's, failures, and n."""
    lines = [f"{'':12} {'median':>8} {'quartiles':>14} {'worst':>8} {'of random':>10} {'never':>6} {'n':>4}"]
    luck = sorted(budgets["random"])[math.ceil(len(budgets["random"]) / 2) - 1]
    for method, epochs in budgets.items():
        # Nearest ranks, because a search that never found one counts as infinitely many epochs: no interpolation.
        low, middle, high = (sorted(epochs)[math.ceil(share * len(epochs)) - 1] for share in (0.25, 0.5, 0.75))
        found = [epoch for epoch in epochs if epoch < math.inf]
        never = len(epochs) - len(found)
        quantiles = f"{middle:8.0f} {low:6.0f} .. {high:4.0f} {max(found):8.0f} {middle / luck:10.2f}"
        lines.append(f"{method:12} {quantiles} {never:6} {len(epochs):4}")
    return "\n".join(lines)


def draw(budgets: Mapping[str, Sequence[float]], file: Path) -> None:
    """Plot the share of searches that had found one of the best, by epochs trained."""
    with mpl.rc_context(STYLE):
        figure, (ax,) = new_figure(1, 1, 3.6, width_in=7.2)
        for method, epochs in budgets.items():
            ordered = sorted(epoch for epoch in epochs if epoch < math.inf)
            shares = [place / len(epochs) for place in range(len(ordered) + 1)]
            ax.step([0, *ordered], shares, where="post", color=COLOURS[method], lw=2, label=method)
        ax.set(xlabel="epochs trained", ylabel="share that found one of the best 1 %", ylim=(0, 1.02), xlim=(0, None))
        legend(figure, ax)
        file.write_bytes(to_png(figure))


if __name__ == "__main__":
    run(main)
