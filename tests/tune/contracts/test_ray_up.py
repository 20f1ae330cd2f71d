"""What `ray up` itself says of deploy/ray-up.yaml before it calls a cloud. Its functions for that are private."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[3] / "deploy" / "ray-up.yaml"


def test_ray_takes_the_cluster_and_completes_it() -> None:
    config = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(config)
    types = config["available_node_types"]
    assert {name: (kind["min_workers"], kind["max_workers"]) for name, kind in types.items()} == {
        "head": (0, 0),
        "worker": (0, 7),
    }
    assert config["docker"]["image"] == "IMAGE"


def test_ray_refuses_a_head_of_a_type_that_there_is_not() -> None:
    config = prepare_config(yaml.safe_load(FILE.read_text()))
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config({**config, "head_node_type": "heads"})
