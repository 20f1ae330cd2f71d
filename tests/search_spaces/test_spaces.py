"""What single spaces promise beyond what all of them hold."""

import pytest

import search_spaces
from maskcls.recipe import Recipe
from search_spaces import Setting, SpaceError
from search_spaces.augmentation import CONTEST, UPPER
from search_spaces.backbones import _FIXED, BACKBONES, FIXED_SIZE
from tests.search_spaces.draws import Fixed

ONLY_RESNET = Setting("cpu", lambda backbone: backbone == "resnet10t")


def test_backbones_without_weights_are_left_out_and_named() -> None:
    space = search_spaces.get("backbones")
    left_out = space.left_out(ONLY_RESNET)
    assert left_out == [backbone for backbone in BACKBONES["cpu"] if backbone != "resnet10t"]
    trial = Fixed()
    space.suggest(trial, ONLY_RESNET)
    assert trial.choices["backbone"] == ["resnet10t"]
    assert {point["backbone"] for point in space.points(ONLY_RESNET)} == {"resnet10t"}


def test_a_pinned_backbone_needs_no_other_backbones_weights() -> None:
    pinned = search_spaces.get("backbones").pinned({"backbone": "resnet26t"})
    nothing = Setting("cpu", lambda backbone: False)
    assert pinned.left_out(nothing) == []
    assert pinned.suggest(Fixed(), nothing)["backbone"] == "resnet26t"


def test_the_gpu_scale_holds_the_contest_projects_families() -> None:
    models = {backbone.partition(".")[0] for backbone in BACKBONES["gpu"]}
    project = {"resnext101_32x8d", "efficientnet_b0", "efficientnet_b5", "tf_efficientnet_b7"}
    assert project | {"resnet50", "densenet121", "vgg16_bn"} <= models
    first = [point["backbone"].partition(".")[0] for point in search_spaces.get("backbones").points(Setting("gpu"))]
    assert set(first[:4]) == project


def test_timm_has_every_backbone_cut_into_stages_with_weights_free_for_any_use() -> None:
    timm = pytest.importorskip("timm")
    import torch

    from maskcls.models.stages import stage_of_modules

    with_weights = set(timm.list_models(pretrained=True))
    for scale, names in BACKBONES.items():
        for name in names:
            config = timm.get_pretrained_cfg(name)
            full = name if "." in name else f"{name}.{config.tag}"
            assert full in with_weights, name
            assert ("." in name) == (scale == "gpu"), "the GPU scale names the weights' tag"
            assert config.license in {"apache-2.0", "mit", "bsd-3-clause"}, (name, config.license)
            assert bool(config.fixed_input_size) <= name.startswith(_FIXED), name
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=0)
            assert set(stage_of_modules(model).values()) == {1, 2, 3, 4, 5}, name


def test_a_backbone_of_one_size_gets_it_undrawn() -> None:
    trial = Fixed(backbone="vit_small_patch16_224.augreg_in21k_ft_in1k")
    overrides = search_spaces.get("backbones").suggest(trial, Setting("gpu"))
    assert overrides["image_size"] == FIXED_SIZE
    assert "image_size" not in trial.choices


def test_what_hangs_on_a_choice_is_drawn_only_there() -> None:
    frozen, trained, linear, mlp = (Fixed(frozen_stages=5), Fixed(frozen_stages=4), Fixed(head="linear"), Fixed(head="mlp"))
    for trial in (frozen, trained, linear, mlp):
        search_spaces.get("freezing").suggest(trial, Setting("gpu"))
    assert ("lr_body" in frozen.names, "lr_body" in trained.names) == (False, True)
    assert ("head_dropout" in linear.names, "head_dropout" in mlp.names) == (False, True)
    single, three = Fixed(task_split="single", sampler="none"), Fixed(task_split="three", sampler="none")
    for trial in (single, three):
        search_spaces.get("task_split").suggest(trial, Setting("gpu"))
    assert ("label_smoothing" in single.names, "class_weights" in single.names) == (True, False)
    assert ("label_smoothing" in three.names, "class_weights" in three.names) == (False, True)


def test_no_augmentation_leaves_every_augmentation_out() -> None:
    chosen = search_spaces.get("augmentation").suggest(Fixed(augmentation="none"), Setting("gpu"))
    recipe = Recipe().override(chosen)
    assert set(recipe.augmentation.values()) == {0.0}


def test_the_contest_projects_strengths_are_the_recipes_defaults() -> None:
    defaults = Recipe().model_dump()
    strengths = {key: strength for kind in CONTEST.values() for key, strength in kind.items()}
    assert strengths == {key: defaults[key] for key in strengths}
    assert set(strengths) == set(UPPER)
    left = {key for key in defaults if key.startswith("augment_")} - set(strengths)
    assert left == {"augment_flip", "augment_probability"}


def test_the_cpu_scale_scales_the_contest_projects_strengths() -> None:
    trial = Fixed(augmentation="both", augment_geometry=2.0, augment_colour=0.5)
    chosen = search_spaces.get("augmentation").suggest(trial, Setting("cpu"))
    assert chosen["augment_rotate_degrees"] == 30.0
    assert chosen["augment_contrast"] == 0.05


def test_a_pinned_key_wins_over_what_the_space_computes() -> None:
    pinned = search_spaces.get("augmentation").pinned({"augment_rotate_degrees": 3.0})
    chosen = pinned.suggest(Fixed(augmentation="geometry", augment_geometry=2.0), Setting("cpu"))
    assert chosen["augment_rotate_degrees"] == 3.0
    assert chosen["augment_scale"] == 0.2


def test_a_pin_takes_what_hangs_on_other_choices_out_of_the_points() -> None:
    pinned = search_spaces.get("freezing").pinned({"frozen_stages": 5, "head": "linear"})
    assert pinned.parameters(Setting("gpu")) == ("lr_head",)
    assert pinned.points(Setting("gpu")) == [{"lr_head": 1e-3}, {"lr_head": 1e-4}]


def test_a_wrong_pin_is_refused() -> None:
    pinned = search_spaces.get("augmentation").pinned({"augmentation": "some"})
    with pytest.raises(SpaceError, match="--set augmentation expects one of none, geometry, colour, both, but got 'some'"):
        pinned.suggest(Fixed(), Setting("cpu"))
    with pytest.raises(SpaceError, match=r"--set frozen_stages expects a whole number, but got 2\.5"):
        search_spaces.get("freezing").pinned({"frozen_stages": 2.5}).suggest(Fixed(), Setting("cpu"))
