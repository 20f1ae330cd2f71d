"""How a bundle does by group of people, as `bundle.json` has it: for the page, the API and the model card.

It stands under `scores`, as the list `groups`: for each set of people on whom the bundle, or the repeats of its recipe,
were scored, who they are and the scores of each group by mask state, gender and age group.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from maskcls.data.dataset import FaceDataset
from maskcls.serving.bundle import read_manifest
from maskcls.serving.export import note_scores
from maskcls.serving.marginals import TASKS
from maskcls.stores.cache_options import CacheOptions
from tune.report.groups import GroupScores, group_scores, groupings
from tune.report.people import people_table
from tune.report.predicted import Predicted, read_sets
from tune.runs.folder import SearchRun
from tune.runs.session import has_data
from tune.runs.study import records
from tune.selection.record import read_choice
from tune.statistics.people import FEW_PEOPLE

GROUPS = "groups"
"""Key in a bundle's scores."""
_WRONG = ("class", *TASKS)
"""What the error rates of `GroupScores` are of: the class, then what a prediction has probabilities of."""


def note_groups(run: SearchRun, folder: Path) -> None:
    """Add to a bundle of the run how it does by group, from predictions that are stored; nothing where there are none.

    Raises MaskclsError where the bundle or the run's photo table cannot be read.
    """
    found = groups_of(run, folder)
    if found:
        note_scores(folder, {GROUPS: found})


def groups_of(run: SearchRun, folder: Path) -> list[dict[str, Any]]:
    """Return the scores by group of a bundle of the run, ready for JSON; empty where no predictions are stored.

    Of the winner they are those of its repeats and of the holdout, as in the report; of another bundle, those of the
    holdout if it was scored there. Nothing is predicted, so the holdout is not used again.
    """
    if not has_data(run):
        return []
    faces = FaceDataset.load(run.data, CacheOptions(run.path))  # no pixels are asked for, so no cache either
    choice = read_choice(run.record())
    trial = read_manifest(folder)["scores"].get("trial")
    is_winner = choice is not None and choice.winner_id is not None and choice.winner_id == trial
    sets = read_sets(
        run, faces, records(run), choice if is_winner else None, f"trial {trial}", predicts=False, bundle=folder
    )
    if not sets.shown:
        return []
    people = people_table(faces, None)
    return [_of_set(one, people) for one in sets.shown]


def _of_set(one: Predicted, people: Any) -> dict[str, Any]:
    groups = [_of_group(each) for by in groupings(one, (), people) for each in group_scores(one, by)]
    of_whom = {"people": one.resamples.people, "photos": int(one.photos["key"].nunique())}
    return {"on": one.name, **of_whom, GROUPS: groups}


def _of_group(found: GroupScores) -> dict[str, Any]:
    return {
        "by": found.grouping.replace(" ", "_"),
        "group": found.name,
        "people": found.people,
        "photos": found.photos,
        "f1": _numbers(found.f1, found.people),
        "wrong": {name: _numbers(share, found.people) for name, share in zip(_WRONG, found.errors, strict=True)},
        "verdict": found.verdict,
    }


def _numbers(score: tuple[float, float, float], people: int) -> list[float | None]:
    """A score and the ends of its interval; None for what is not known, as the interval of too few people."""
    value, *ends = (None if math.isnan(number) else round(number, 4) for number in score)
    return [value, *(ends if people >= FEW_PEOPLE else [None, None])]
