"""Starting points of the CPU scale, chosen from the recorded table `stages`, and what they save of a search's epochs.

    python -m tests.benchmarks.portfolio --write      # search_spaces/portfolio.json, in a second

A point is frozen stages and two learning rates; its score differs between the table's four contexts (two samplers, two
losses), and a score on 92 people has a standard error of about .03. So many worlds are drawn, each with the scores of
one context and this error, and the points are chosen one after another: each time the one that raises the mean over the
worlds of the best point's score most. The preset's own point, the nearest in the table, counts as chosen already,
because trial 0 is the preset's.

What a portfolio saves is measured in the context that it was not chosen from: how many points drawn at random it takes
until their best one, in the mean, is as good.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from maskcls.cli import run
from maskcls.files import write_atomically
from maskcls.recipe import N_STAGES
from search_spaces.portfolio import FILE
from tests.benchmarks.recorded_table import FROZEN_STAGES, LOSSES, LR_BODIES, LR_HEADS, SAMPLERS, STAGES

Floats = NDArray[np.float64]

KEYS = ("frozen_stages", "lr_head", "lr_body")
CONTEXTS = tuple(product(SAMPLERS, LOSSES))
NEAR_PRESET = (0, 1.5e-3, 2e-3)
"""The table's point nearest the preset faces-2026 at the CPU scale."""
STANDARD_ERROR = 0.03
WORLDS, DRAWS = 400, 2000
N_POINTS = 2
PRESET = (0, 2e-3, 2e-3)
"""The preset's own point, which is tried on other backbones than the preset's as well."""


def candidates() -> list[tuple[int, float, float]]:
    """The table's points that train a part of the body: frozen stages, learning rates of head and body."""
    return [point for point in product(FROZEN_STAGES, LR_HEADS, LR_BODIES) if point[0] < N_STAGES]


def table_scores() -> Floats:
    """The best epoch's macro F1 of each candidate in each context, (points, contexts)."""
    return np.array([[_f1(point, *context) for context in CONTEXTS] for point in candidates()])


def _f1(point: tuple[int, float, float], sampler: str, loss: str) -> float:
    values = {**dict(zip(KEYS, point, strict=True)), "sampler": sampler, "loss": loss}
    return max(STAGES.rows[STAGES.key(values)].f1)


def chosen(scores: Floats, n: int, given: Sequence[int]) -> list[int]:
    """Choose n points, as rows of scores (points, contexts), beside those that are given."""
    generator = np.random.default_rng(0)
    contexts = generator.integers(scores.shape[1], size=WORLDS)  # (worlds,)
    worlds = scores[:, contexts] + generator.normal(0, STANDARD_ERROR, (len(scores), WORLDS))  # (points, worlds)
    best, found = worlds[list(given)].max(axis=0), list[int]()
    for _ in range(n):
        found.append(int(np.maximum(worlds, best).mean(axis=1).argmax()))
        best = np.maximum(best, worlds[found[-1]])
    return found


def drawn_until(scores: Floats, reached: float) -> float:
    """How many points (points,) are drawn at random, in the mean, until one scores so much."""
    generator = np.random.default_rng(1)
    orders = (generator.permutation(scores) for _ in range(DRAWS))
    return float(np.mean([1 + (order >= reached).argmax() for order in orders]))


def saved() -> list[str]:
    """One line per context: the best score of preset and portfolio there, and what it takes at random."""
    scores, lines = table_scores(), []
    preset = candidates().index(NEAR_PRESET)
    for at, context in enumerate(CONTEXTS):
        others = np.delete(scores, at, axis=1)
        tried = [preset, *chosen(others, N_POINTS, [preset])]
        here = scores[:, at]
        needed = [drawn_until(here, here[tried[:n]].max()) for n in (1, len(tried))]
        lines.append(
            f"{', '.join(context):24} preset {here[preset]:.3f} (at random {needed[0]:.1f} trials), "
            f"with {N_POINTS} points {here[tried].max():.3f} (at random {needed[1]:.1f}), best of all {here.max():.3f}"
        )
    return lines


def starts() -> list[dict[str, Any]]:
    """The points as `portfolio.json` has them."""
    preset = candidates().index(NEAR_PRESET)
    found = [candidates()[at] for at in chosen(table_scores(), N_POINTS, [preset])]
    from_table = "python -m tests.benchmarks.portfolio --write, from the table stages of docs/luck.md"
    sources = ["the preset faces-2026", *(from_table for _ in found)]
    return [
        {"point": {**dict(zip(KEYS, point, strict=True)), "weight_decay": 0.02, "head": "linear"}, "source": source}
        for point, source in zip([PRESET, *found], sources, strict=True)
    ]


def main(write: Annotated[bool, typer.Option("--write", help="Write them into the package.")] = False) -> None:
    """Print what the points save, and the points; write them where asked."""
    print("\n".join(saved()))
    print(json.dumps(starts(), indent=1))
    if write:
        whole = json.loads(FILE.read_text(encoding="utf-8"))
        write_atomically(FILE, json.dumps({**whole, "cpu": starts()}, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
