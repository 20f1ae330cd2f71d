"""Does the search beat random search? Epochs until each finds one of the best 1 % of a recorded table's recipes.

    python -m tests.benchmarks.beats_luck --seeds 50        # docs/luck.png and runs/benchmarks/beats_luck.json

The searches are random search, TPE, and TPE with each scheduler. They are replayed on the table `stages` of real curves
(`replay`), one trial at a time, with the same recipe as trial 0. A search has found one of the best when one of its
trials reports the macro F1 that only the table's best 1 % reach at any epoch. It goes on until then, or until every
recipe of the table was tried.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer

from maskcls.cli import run
from maskcls.reports.plots import STYLE, legend, new_figure, to_png
from tests.benchmarks.recorded_table import STAGES
from tests.benchmarks.replay import plan_of, replay_plan
from tests.benchmarks.report import write
from tune.search.plan import ASHA, NONE, RANDOM, TPE

BEST_SHARE = 0.01
METHODS = {"random": (RANDOM, NONE), "TPE": (TPE, NONE), "TPE + ASHA": (TPE, ASHA)}
COLOURS = {"random": "#a9b4be", "TPE": "#e3a72f", "TPE + ASHA": "#1f6f8b"}


def threshold() -> float:
    """The macro F1 that the best 1 % of the table's recipes reach at some epoch, and no other does."""
    best = sorted((max(row.f1) for row in STAGES.rows.values()), reverse=True)
    return best[math.ceil(BEST_SHARE * len(best)) - 1]


def epochs_to_best(method: str, seed: int, folder: Path) -> float:
    """Search until one of the best is found, and return the epochs spent; infinite if none was."""
    sampler, scheduler = METHODS[method]
    plan = plan_of(STAGES, len(STAGES.rows), seed, sampler=sampler, scheduler=scheduler)
    reports = replay_plan(STAGES, plan, folder / method)
    return next((report.spent for report in reports if report.best_f1 >= threshold()), math.inf)


def main(
    seeds: Annotated[int, typer.Option(help="Searches of each method.")] = 50,
    figure: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("docs/luck.png"),
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/beats_luck.json"),
) -> None:
    """Search, print the table, draw the picture."""
    with tempfile.TemporaryDirectory() as folder:
        budgets = {method: [epochs_to_best(method, seed, Path(folder)) for seed in range(seeds)] for method in METHODS}
    print(table(budgets))
    draw(budgets, figure)
    finite = {
        method: [epochs if epochs < math.inf else None for epochs in values] for method, values in budgets.items()
    }
    write(
        out, {method: {"n": len(values), "epochs": values} for method, values in finite.items()}, threshold=threshold()
    )


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
