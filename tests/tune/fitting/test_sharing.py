"""What a GPU and the machine's memory allow, one after the other."""

from __future__ import annotations

import pytest

from maskcls.recipe import Recipe
from tune.fitting.sharing import share_machine
from tune.runs.cluster import Cluster, Node
from tune.runs.options import AUTO, SharedOptions
from tune.runs.shares import Demand, Share

RECIPE = Recipe(backbone="resnet10t", image_size=64, batch_size=32, weights="none")


def shared(planned: Share, gpus_per_trial: str | None) -> tuple[Share, list[str]]:
    options = SharedOptions(gpus_per_trial=gpus_per_trial)
    demand = Demand(iter([RECIPE]), options, Cluster((Node(8, 0.0),)), "cpu", 8, "trial")
    return share_machine(planned, demand, lambda line: None)


@pytest.mark.parametrize("gpus_per_trial", [None, AUTO])
def test_without_a_gpu_memory_bounds_what_runs_at_a_time(
    gpus_per_trial: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.fitting.memory_sharing.available_memory", lambda: 1)
    found, notes = shared(Share(8, 1, 0.0), gpus_per_trial)
    assert found == Share(1, 8, 0.0)
    *of_gpus, of_memory = notes
    assert of_memory.startswith("1 at a time instead of 8: ")
    assert of_gpus == (["--gpus-per-trial auto is 0: in CPU scale trials use no GPU."] if gpus_per_trial else [])


def test_where_all_fit_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.fitting.memory_sharing.available_memory", lambda: 10**15)
    assert shared(Share(8, 1, 0.0), None) == (Share(8, 1, 0.0), [])
