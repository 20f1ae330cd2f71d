"""The search loop, really run, on a synthetic objective."""

import csv
from pathlib import Path
from typing import Any

import pytest
from synthetic import SPACE, Synthetic

from maskcls.errors import RunError
from maskcls.presets import preset
from search_spaces import Setting
from tune.driver import FINISHED, run_search
from tune.plan import SearchPlan, pinned_space
from tune.run_dir import RunDir
from tune.study import records

pytestmark = pytest.mark.usefixtures("ray_cluster")


def plan(trials: int = 4, explicit: dict[str, Any] | None = None, **values: Any) -> SearchPlan:
    explicit = {"epochs": 4, **(explicit or {})}
    setting = Setting("cpu")
    space, _ = pinned_space(SPACE, explicit, setting)
    return SearchPlan(space, setting, preset("contest-2021", "cpu").override(explicit), explicit, trials, **values)


def new_run(tmp_path: Path, name: str = "one") -> RunDir:
    return RunDir.create(tmp_path, name, {})


def table(run: RunDir) -> list[dict[str, str]]:
    with run.leaderboard.open() as file:
        return list(csv.DictReader(file))


def test_a_search_ends_with_as_many_trials_as_wanted(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    outcome = run_search(plan(5), run, Synthetic())
    assert (outcome.why, outcome.left) == (FINISHED, 0)
    assert [record.trial_id for record in records(run)] == ["0000", "0001", "0002", "0003", "0004"]
    assert len(table(run)) == 5
