"""What tests of the search share: a plan over the synthetic space, a run, a leaderboard read back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from maskcls.training.conditions import NUMBERS
from maskcls.training.presets import preset
from search_spaces import Setting
from tests.tune.synthetic import SPACE
from tune.fitting.curve import read_curve
from tune.runs.folder import SearchRun
from tune.runs.study import open_study, records
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


def reported(run: SearchRun) -> dict[str, dict[str, Any]]:
    """Every trial that was begun, as the study and its folders have it, without times."""
    trials = {f"{trial.number:04d}": trial for trial in open_study(run).get_trials(deepcopy=False)}
    return {
        record.trial_id: {
            "state": record.state,
            "params": record.params,
            "reported": trials[record.trial_id].intermediate_values,
            "value": trials[record.trial_id].values,
            "recipe": record.recipe,
            "curve": [{name: row.get(name) for name in NUMBERS} for row in read_curve(run.trial(record.trial_id))],
        }
        for record in records(run)
    }


def computed(run: SearchRun, trial_id: str) -> list[int]:
    """Epochs that the synthetic objective really computed, in their order."""
    return [int(line) for line in (run.trial(trial_id) / "computed.txt").read_text().split()]
