"""How a call becomes a plan: scale, shares of the machine, precedence, durations."""

from typing import Any

import pytest

from maskcls.errors import CallError
from tune.call import Call, Resolved, budget_s, resolve
from tune.cluster import Cluster
from tune.resume import preset_params

DEFAULTS: dict[str, Any] = {
    "space": "freezing",
    "data": None,
    "preset": "contest-2021",
    "set": (),
    "epochs": None,
    "image_size": None,
    "weights": None,
    "scale": "auto",
    "seed": 0,
    "split_seed": 0,
    "split": None,
    "corrections": "published",
    "skip_bad": False,
    "trials": None,
    "parallel": None,
    "gpus_per_trial": None,
    "cpus_per_trial": None,
    "time_budget": None,
}


def resolved(cpus: int, gpus: float, **options: Any) -> Resolved:
    return resolve(Call.of({**DEFAULTS, **options}), Cluster(cpus, gpus, ""))


def test_without_a_gpu_the_scale_is_cpu_and_says_so() -> None:
    found = resolved(2, 0)
    assert found.plan.setting.scale == "cpu"
    assert found.plan.base.backbone == "resnet10t"
    assert found.notes[0].startswith("No GPU was found: CPU scale")
    assert resolved(2, 1).plan.base.backbone == "resnext101_32x8d.tv_in1k"
    assert resolved(2, 0, scale="gpu").plan.setting.scale == "gpu"


@pytest.mark.parametrize(
    ("cpus", "gpus", "options", "share"),
    [
        (2, 0, {}, (2, 1, 0)),
        (2, 0, {"trials": 3}, (1, 2, 0)),
        (64, 0, {"trials": 12}, (4, 16, 0)),
        (64, 0, {"cpus_per_trial": 32}, (2, 32, 0)),
        (64, 0, {"parallel": 8}, (8, 8, 0)),
        (16, 4, {}, (4, 4, 1)),
        (16, 1, {"gpus_per_trial": 0.25}, (4, 4, 0.25)),
        (16, 1, {"scale": "cpu"}, (4, 4, 0)),
    ],
)
def test_trials_share_the_machine(cpus: int, gpus: float, options: dict[str, Any], share: tuple[int, int, float]) -> None:
    plan = resolved(cpus, gpus, **options).plan
    assert (plan.parallel, plan.cpus, plan.gpus) == share


def test_more_than_there_is_would_never_start() -> None:
    with pytest.raises(CallError, match=r"--gpus-per-trial 2 is more than there is \(1\): no trial would ever start"):
        resolved(2, 1, gpus_per_trial=2.0)


def test_preset_scale_space_explicit_in_that_order() -> None:
    plan = resolved(2, 0, set=("lr_head=0.5", "head=mlp"), epochs=9, seed=4).plan
    assert plan.base.head_width == 512, "the scale over the preset"
    assert plan.base.lr_head == 0.5
    assert plan.base.epochs == 9
    assert plan.base.seed == plan.seed == 4
    assert plan.base.weights == "none", "of demo faces"
    recipe = plan.recipe({"lr_head": 1e-3, "head_width": 99, "epochs": 1})
    assert (recipe["lr_head"], recipe["head_width"], recipe["epochs"]) == (0.5, 99, 9), "the space over the scale, explicit over all"


def test_a_pin_is_told() -> None:
    notes = resolved(2, 0, set=("frozen_stages=3",), image_size=64).notes
    assert [note for note in notes if "fixed" in note] == ["frozen_stages is fixed at 3: the space would vary it."]


def test_the_preset_is_a_point_of_the_space_where_all_its_values_lie_in_it() -> None:
    plan = resolved(2, 0).plan
    assert preset_params(plan.space, plan.setting, plan.base) == {
        "frozen_stages": 5,
        "head": "mlp",
        "lr_head": 1e-3,
        "head_width": 512,
        "head_dropout": 0.5,
    }
    outside = plan.base.override({"lr_head": 0.9})
    assert preset_params(plan.space, plan.setting, outside) == {}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), (None, None)])
def test_durations(text: str | None, seconds: float | None) -> None:
    assert budget_s(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "30 m", "-5m", "0s", "5d", "1h30"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(CallError, match="--time-budget expects a duration"):
        budget_s(text)
