"""A recipe is checked where it is made, and is the same thing in JSON and in another process."""

import subprocess
import sys
from pathlib import Path

import pytest

from maskcls.errors import CallError
from maskcls.presets import DEFAULT_PRESET, PRESETS, SCALES, explicit_values, preset, resolve_weights
from maskcls.recipe import Recipe, parse_settings


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str, scale: str) -> None:
    recipe = preset(name, scale).override({"augment_noise": 0.1, "seed": 7, "lr_head": 3e-5})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(recipe.to_json()).digest == recipe.digest


def test_the_digest_is_the_same_in_another_process() -> None:
    recipe = preset(DEFAULT_PRESET, "cpu")
    code = "import sys; from maskcls.recipe import Recipe; print(Recipe.from_json(sys.stdin.read()).digest)"
    other = subprocess.run(  # under another hash seed
        [sys.executable, "-c", code], input=recipe.to_json(), capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "1"}
    )
    assert other.stdout.strip() == recipe.digest


def test_every_value_changes_the_digest() -> None:
    changed = {
        bool: lambda v: not v,
        int: lambda v: v + 1 if v < 5 else v - 1,
        float: lambda v: v / 2 + 0.01,
    }
    others = {"task_split": "three", "head": "mlp", "sampler": "weighted", "loss": "focal", "class_weights": "balanced"}
    others |= {"optimizer": "sgd", "schedule": "constant", "precision": "float32", "backbone": "resnet18", "weights": "none"}
    base = Recipe()
    digests = {base.digest}
    for key, value in base.model_dump().items():
        digests.add(base.override({key: others.get(key) or changed[type(value)](value)}).digest)
    assert len(digests) == 1 + len(Recipe.model_fields)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Recipe().epochs = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "no key 'epoch'. Did you mean epochs"),
        ({"epochs": "many"}, "epochs: .*integer.*got 'many'"),
        ({"epochs": True}, "epochs: .*integer.*got True"),
        ({"epochs": "7"}, "epochs: .*integer.*got '7'"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1.*got 0"),
        ({"frozen_stages": 6}, "frozen_stages: .*less than or equal to 5.*got 6"),
        ({"lr_head": float("nan")}, "lr_head: .*finite"),
        ({"sampler": "all"}, "sampler: .*'none', 'oversample' or 'weighted'.*got 'all'"),
        ({"task_split": "four"}, "task_split: There is no task split 'four'.*single, three"),
        ({"epoch": 3, "batch_size": -1}, "(?s)batch_size.*epoch"),
    ],
)
def test_wrong_values_get_a_message(values: dict[str, object], message: str) -> None:
    with pytest.raises(CallError, match=message):
        Recipe().override(values)


@pytest.mark.parametrize("text", ["{", "[]", '{"epochs": 1, "colour": 2}'])
def test_wrong_json_is_refused(text: str) -> None:
    with pytest.raises(CallError, match=r"JSON|no key 'colour'"):
        Recipe.from_json(text)


def test_settings_are_read_as_numbers_and_words() -> None:
    assert parse_settings(["epochs=6", "lr_head=1e-4", "loss=focal", "weights=none"]) == {
        "epochs": 6,
        "lr_head": 1e-4,
        "loss": "focal",
        "weights": "none",
    }


@pytest.mark.parametrize(("settings", "message"), [(["epochs"], "key=value.*'epochs'"), (["a=1", "a=2"], "--set a is given twice")])
def test_wrong_settings_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(CallError, match=message):
        parse_settings(settings)


def test_a_value_said_in_two_ways_must_agree() -> None:
    assert explicit_values(["epochs=6", "weights=none"], None, epochs=6, seed=None) == {"epochs": 6, "weights": "none"}
    assert explicit_values(["seed=3"], None, seed=None) == {"seed": 3, "weights": "none"}
    with pytest.raises(CallError, match="--epochs says 5, but --set says epochs=6"):
        explicit_values(["epochs=6"], None, epochs=5)


def test_unknown_presets_and_scales_are_told_what_there_is() -> None:
    with pytest.raises(CallError, match="no preset 'contest'.*contest-2021"):
        preset("contest", "cpu")
    with pytest.raises(CallError, match="no scale 'tpu'.*cpu"):
        preset("contest-2021", "tpu")


def test_the_contest_preset_is_the_contest_projects_recipe() -> None:
    recipe = preset("contest-2021", "gpu")
    assert (recipe.backbone, recipe.frozen_stages, recipe.head, recipe.head_width) == ("resnext101_32x8d.tv_in1k", 5, "mlp", 4096)
    assert (recipe.loss, recipe.focal_gamma, recipe.optimizer, recipe.lr_head) == ("focal", 2.0, "adam", 1e-4)
    assert (recipe.schedule, recipe.image_size, recipe.sampler, recipe.task_split) == ("cosine", 256, "oversample", "single")


def test_weights_are_the_hub_on_real_data_and_none_on_demo_faces(tmp_path: Path) -> None:
    assert resolve_weights(None, tmp_path) == "hub"
    assert resolve_weights(None, None) == "none"
    assert resolve_weights(str(tmp_path), None) == str(tmp_path)
    with pytest.raises(CallError, match="no such folder"):
        resolve_weights(str(tmp_path / "absent"), None)
