"""A cluster whose nodes have GPUs of different types, which Ray is made to believe: nothing computes on one here."""

from __future__ import annotations

import json

import pytest

from tests.cluster.conftest import RayCluster
from tests.cluster.searches import Search, hosts

TYPES = ("H100", "A10G")


@pytest.mark.soak
@pytest.mark.parametrize("gpu_type", TYPES)
def test_trials_run_on_the_type_that_is_asked_for(cluster: RayCluster, gpu_type: str) -> None:
    for name in TYPES:
        resources = json.dumps({f"accelerator_type:{name}": 1})
        cluster.join(name, "--num-gpus", 2, "--resources", resources, cpus=2)
    search = Search(cluster, "one", trials=4, epochs=2, parallel=2, gpu_type=gpu_type)
    search.finish()
    assert hosts(search.run) == {gpu_type}
