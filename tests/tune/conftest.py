"""Ray is started once for all tests of the search, with two cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --cache, so that demo faces are drawn and decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Two cores, whose workers find the tests' objectives."""
    from tune.runs import cluster

    cluster.quiet()
    os.environ["PYTHONPATH"] = str(ROOT)
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
