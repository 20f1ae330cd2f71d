"""`python -m tests.benchmarks.decision RUN ...`: what the decision rule brings to the finalists of searches.

For each finalist with repeats, macro F1 over its repeats by the likeliest class and by the rule, each person decided by
a tau that was fitted without them, the paired difference with its 95 % interval, and the tau that its bundle would
have; then what a rule brings to the others that was fitted on a fifth of the people (their number in parentheses), or
on half of them. The predictions are those that the search kept: nothing is trained.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from maskcls import seeds
from maskcls.cli import run
from maskcls.data.dataset import FaceDataset
from maskcls.serving.decision import Predicted, decided, fit_decision, prior_of
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.metrics import scores
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.finalists import Finalist, people_of, predicted_by, read_finalists
from tune.selection.record import read_choice
from tune.statistics.paired import Repeat, difference

SHARES = (0.2, 0.5)
"""Of the people on whom a rule is fitted; the others are scored."""
DRAWS = 20
COLUMNS = (
    *("run", "trial", "recipe", "repeats", "likeliest", "by the rule", "difference, 95 % interval", "tau"),
    *("fitted on a fifth", "fitted on half"),
)


def by_share(answered: Predicted, prior: NDArray[np.float64], share: float) -> tuple[int, float]:
    """How many people a share is, and the mean gain of macro F1 for the others, over DRAWS draws of people."""
    stratum = answered.truth % 6  # gender x age group
    gains, drawn = [], 0
    for draw in range(DRAWS):
        generator, chosen = seeds.generator(draw), set[str]()
        for group in np.unique(stratum):
            people = generator.permutation(np.unique(answered.person[stratum == group].astype(str)))
            chosen |= set(people[: max(1, round(share * len(people)))])
        inside = np.isin(answered.person.astype(str), list(chosen))
        fitted, others = answered.rows(inside), answered.rows(~inside)
        by_rule = decided(fit_decision(fitted, prior, ""), others.probabilities)
        gains.append(scores(others.truth, by_rule).f1 - scores(others.truth, others.probabilities).f1)
        drawn = len(chosen)
    return drawn, statistics.fmean(gains)


def row(finalist: Finalist, faces: FaceDataset) -> str:
    """A finalist as a row of a table in Markdown."""
    answered, prior = predicted_by(finalist.repeats, faces), prior_of(faces)
    rule = fit_decision(answered, prior, "")
    fewer = " | ".join("{1:+.3f} ({0})".format(*by_share(answered, prior, share)) for share in SHARES)
    pairs = [
        Repeat(one.truth, one.log_probabilities.argmax(axis=1), one.classes, *people_of(one.keys, faces))
        for one in finalist.repeats
    ]
    found = difference(pairs)
    mean = statistics.fmean(one.f1 for one in finalist.repeats)
    recipe = finalist.recipe
    return (
        f"| {finalist.trial_id} | {recipe['task_split']}, {recipe['sampler']}, {recipe['frozen_stages']} frozen | "
        f"{found.n} | {mean - found.mean:.3f} | {mean:.3f} | {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}] | "
        f"{rule.tau if rule else 0:g} | {fewer} |"
    )


def main(runs: Annotated[list[Path], typer.Argument(help="Folders of searches that repeated finalists.")]) -> None:
    """Print what the decision rule brings to the finalists of searches."""
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for folder in runs:
        search = SearchRun(folder.resolve())
        choice = read_choice(search.record())
        if choice is None:
            continue
        faces = FaceDataset.load(search.data, CacheOptions(search.path))
        for one in read_finalists(search, records(search), faces, choice.design):
            if one.repeats:
                print(f"| {search.name} {row(one, faces)}")


if __name__ == "__main__":
    run(main)
