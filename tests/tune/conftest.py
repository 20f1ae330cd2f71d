"""Ray is started once for all tests of the search, with two cores."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --cache, so that demo faces are drawn and decoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Two cores, whose workers find the tests' objectives."""
    from tune import cluster

    cluster.quiet()
    os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
