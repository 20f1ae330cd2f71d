"""A recipe is checked where it is made, and is the same thing in JSON and in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskcls.errors import CallError
from maskcls.recipe import Recipe, canonical_of, digest_of, parse_settings
from maskcls.training.presets import DEFAULT_PRESET, PRESETS, SCALES, explicit_values, preset, resolve_weights


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
        [sys.executable, "-c", code],
        input=recipe.to_json(),
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "1"},
    )
    assert other.stdout.strip() == recipe.digest


def test_a_key_that_earlier_recipes_lacked_changes_no_digest_until_it_has_a_value() -> None:
    written = Recipe().model_dump()
    earlier = {key: value for key, value in written.items() if key != "epoch_photos"}
    assert digest_of(earlier) == digest_of(written) == Recipe().digest
    assert canonical_of(earlier) == canonical_of(written)
    assert digest_of({**written, "epoch_photos": 1}) not in (Recipe().digest, digest_of({**written, "epoch_photos": 2}))


def test_every_value_changes_the_digest() -> None:
    changed = {
        bool: lambda v: not v,
        int: lambda v: v + 1 if v < 5 else v - 1,
        float: lambda v: v / 2 + 0.01,
    }
    others: dict[str, Any] = {
        "task_split": "three",
        "head": "mlp",
        "sampler": "weighted",
        "loss": "focal",
        "class_weights": "balanced",
    }
    others |= {
        "optimizer": "sgd",
        "schedule": "constant",
        "precision": "float32",
        "backbone": "resnet18",
        "weights": "none",
    }
    others |= {"join": "hard", "face_crop": "haar", "mix": "mixup", "second_loss": "soft_f1", "ages_left_out": "57-59"}
    others |= {"members": {"classes": {"lr_head": 0.5}}}
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
        ({"sampler": "all"}, "sampler: .*'none', 'oversample', 'weighted' or 'square_root'.*got 'all'"),
        ({"task_split": "four"}, "task_split: There is no task split 'four'.*single, .*three"),
        ({"loss": "f1"}, "loss: .*'cross_entropy', 'focal' or 'soft_f1'.*got 'f1'"),
        ({"join": "vote"}, "join: .*'soft' or 'hard'.*got 'vote'"),
        ({"ages_left_out": "59-57"}, "ages_left_out: Bands of ages are written as 57-59 .*got '59-57'"),
        ({"ages_left_out": "old"}, "ages_left_out: Bands of ages are written as 57-59 .*got 'old'"),
        ({"age_cut_old": 30}, "`age_cut_young < age_cut_old` must hold, but got 30 and 30"),
        (
            {"members.age4.lr_head": 1.0},
            "members.age4: task split three has no such member. Members: mask3, gender2, age3",
        ),
        ({"members.age3.lr_hed": 1.0}, "members.age3.lr_hed: a recipe has no key 'lr_hed'. Did you mean lr_head"),
        (
            {"members.age3.epochs": 1},
            "members.age3.epochs: the members share this one. A member may have its own age_cut_old, .*lr_head",
        ),
        ({"members.age3.lr_head": -1.0}, "members.age3.lr_head: .*greater than 0, but got -1.0"),
        ({"members.age3.age_cut_old": 20}, "members.age3: `age_cut_young < age_cut_old` must hold, but got 30 and 20"),
        (
            {"task_split": "shared_heads", "members.age3.backbone": "x"},
            "members.age3.backbone: .*A head of a shared backbone may have",
        ),
        ({"epoch": 3, "batch_size": -1}, "(?s)batch_size.*epoch"),
    ],
)
def test_wrong_values_get_a_message(values: dict[str, object], message: str) -> None:
    with pytest.raises(CallError, match=message):
        Recipe(task_split="three").override(values)


def test_a_members_own_values() -> None:
    recipe = Recipe(task_split="three").override(
        {"members.age3.lr_head": 0.5, "members.age3.loss": "focal", "members.mask3.backbone": "resnet18"}
    )
    assert (recipe.of_member("age3").lr_head, recipe.of_member("gender2").lr_head) == (0.5, Recipe().lr_head)
    assert recipe.of_member("age3").digest == Recipe(task_split="three", lr_head=0.5, loss="focal").digest
    assert recipe.backbones == ("resnet18", Recipe().backbone)
    again = recipe.override({"members.age3.lr_head": 0.25})
    assert again.members == {"age3": {"lr_head": 0.25, "loss": "focal"}, "mask3": {"backbone": "resnet18"}}
    assert recipe.members["age3"]["lr_head"] == 0.5, "the recipe it came from is another one"
    assert Recipe.from_json(again.to_json()) == again
    assert recipe.override({"members": {}}).members == {}


def test_a_members_own_values_are_what_the_fits_would_be() -> None:
    whole, plain = (Recipe(task_split="three").override({"members.age3.lr_head": value}) for value in (1, 1.0))
    assert whole.digest == plain.digest
    ages = Recipe(task_split="three").override({"members.age3.ages_left_out": 57})
    assert ages.of_member("age3").age_bands == ((57, 57),)


def test_members_given_whole_and_singly_go_together() -> None:
    recipe = Recipe(task_split="three").override({"members": {"age3": {"lr_head": 0.1}}, "members.age3.loss": "focal"})
    assert recipe.members == {"age3": {"lr_head": 0.1, "loss": "focal"}}
    with pytest.raises(CallError, match="members.age3: Input should be a valid dictionary, but got 3"):
        Recipe(task_split="three").override({"members": {"age3": 3}, "members.age3.loss": "focal"})


def test_flat_values_name_each_members_own() -> None:
    flat = Recipe(task_split="three").override({"members.age3.lr_head": 0.5}).flat()
    assert (flat["lr_head"], flat["members.mask3.lr_head"], flat["members.age3.lr_head"]) == (1e-3, 1e-3, 0.5)


def test_bands_of_ages_are_read() -> None:
    assert Recipe(ages_left_out="27-29,57-59").age_bands == ((27, 29), (57, 59))
    assert Recipe().override({"ages_left_out": 57}).age_bands == ((57, 57),)
    assert Recipe().age_bands == ()


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


@pytest.mark.parametrize(
    ("settings", "message"), [(["epochs"], "key=value.*'epochs'"), (["a=1", "a=2"], "--set a is given twice")]
)
def test_wrong_settings_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(CallError, match=message):
        parse_settings(settings)


def test_a_value_said_in_two_ways_must_agree() -> None:
    assert explicit_values(["epochs=6", "weights=none"], None, epochs=6, seed=None) == {"epochs": 6, "weights": "none"}
    assert explicit_values(["seed=3"], None, seed=None) == {"seed": 3, "weights": "none"}
    with pytest.raises(CallError, match="--epochs says 5, but --set says epochs=6"):
        explicit_values(["epochs=6"], None, epochs=5)


def test_unknown_presets_and_scales_are_reported_what_there_is() -> None:
    with pytest.raises(CallError, match="no preset 'contest'.*contest-2021"):
        preset("contest", "cpu")
    with pytest.raises(CallError, match="no scale 'tpu'.*cpu"):
        preset("contest-2021", "tpu")


def test_the_contest_preset_is_the_contest_projects_recipe() -> None:
    recipe = preset("contest-2021", "gpu")
    assert (recipe.backbone, recipe.frozen_stages, recipe.head, recipe.head_width) == (
        "resnext101_32x8d.tv_in1k",
        5,
        "mlp",
        4096,
    )
    assert (recipe.loss, recipe.focal_gamma, recipe.optimizer, recipe.lr_head) == ("focal", 2.0, "adam", 1e-4)
    assert (recipe.schedule, recipe.image_size, recipe.sampler, recipe.task_split) == (
        "cosine",
        256,
        "oversample",
        "single",
    )


def test_the_contest_preset_draws_as_often_as_the_contest_project() -> None:
    """Its epoch drew every class as often as the largest; it trained 12 of them. An epoch here draws n photos."""
    masked = [2745, 2050, 415, 3660, 4085, 545]
    counts = [*masked, *[549, 410, 83, 732, 817, 109] * 2]  # photos per class of the contest's data
    assert sum(counts) == 18_900
    assert preset("contest-2021", "gpu").epochs == round(12 * len(counts) * max(counts) / sum(counts))


def test_weights_are_the_hub_on_real_data_and_none_on_demo_faces(tmp_path: Path) -> None:
    assert resolve_weights(None, tmp_path) == "hub"
    assert resolve_weights(None, None) == "none"
    assert resolve_weights(str(tmp_path), None) == str(tmp_path)
    with pytest.raises(CallError, match="no such folder"):
        resolve_weights(str(tmp_path / "absent"), None)
