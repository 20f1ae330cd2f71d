"""What tests of the search share: a plan over the synthetic space, a run, a leaderboard read back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from maskcls.training.presets import preset
from search_spaces import Setting
from tests.tune.synthetic import SPACE
from tune.runs.folder import SearchRun
from tune.search.plan import SearchPlan, pinned_space

SETTING = Setting("cpu")


def make_plan(trials: int = 4, explicit: dict[str, Any] | None = None, **values: Any) -> SearchPlan:
    """The synthetic space at CPU scale, four epochs by default."""
    explicit = {"epochs": 4, **(explicit or {})}
    space, _ = pinned_space(SPACE, explicit, SETTING)
    return SearchPlan(space, SETTING, preset("contest-2021", "cpu").override(explicit), explicit, trials, **values)


def new_run(folder: Path, name: str = "one") -> SearchRun:
    return SearchRun.create(folder, name)


def table(run: SearchRun, *, seconds: bool = True) -> list[dict[str, str]]:
    """leaderboard.csv, row by row."""
    with run.leaderboard.open() as file:
        rows = list(csv.DictReader(file))
    return rows if seconds else [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def computed(run: SearchRun, trial_id: str) -> list[int]:
    """Epochs that the synthetic objective really computed, in their order."""
    return [int(line) for line in (run.trial(trial_id) / "computed.txt").read_text().split()]
