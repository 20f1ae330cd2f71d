"""What single spaces promise beyond what all of them hold."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import search_spaces
from maskcls.recipe import Recipe
from maskcls.task_split import TASK_SPLITS, TaskSplit
from maskcls.training.presets import preset
from search_spaces import _DRAWS, Setting, Space, SpaceError, Suggest, everything, imbalance, task_split
from search_spaces.augmentation import CONTEST, MIXES, UPPER
from search_spaces.backbones import _FIXED, BACKBONES, FIXED_SIZE, UNTRAINED
from search_spaces.portfolio import STARTS
from tests.search_spaces.draws import Fixed, drawn
from tune.search.first_trials import initial_trials
from tune.search.plan import SearchPlan, pinned_space, vet

ONLY_RESNET = Setting("cpu", lambda backbone: backbone == "resnet10t")
SCALES = (Setting("cpu"), Setting("gpu"))
both_scales = pytest.mark.parametrize("setting", SCALES, ids=lambda setting: setting.scale)


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
    tried = [point["backbone"].partition(".")[0] for point in search_spaces.get("backbones").points(Setting("gpu"))]
    assert (tried[0], tried[-1]) == ("tf_efficientnet_b4", "resnext101_32x8d"), "the winner's first, the project's last"


@both_scales
def test_points_begin_with_the_backbones_that_were_ranked_first(setting: Setting) -> None:
    space, order = search_spaces.get("backbones"), BACKBONES[setting.scale][::-1]
    ranked = replace(setting, ranking=order)
    assert [point["backbone"] for point in space.points(ranked)[:2]] == list(order[:2])
    assert [params for params, _ in drawn(space, ranked, 20)] == [params for params, _ in drawn(space, setting, 20)]
    assert setting.ranked(order) == list(order), "without a ranking they stay as they come"


def test_a_transformer_starts_with_smaller_steps_and_once() -> None:
    names = [name for name in BACKBONES["gpu"] if name.startswith(_FIXED)]
    points = search_spaces.get("backbones").points(replace(Setting("gpu"), ranking=tuple(names)))
    of_first = [point for point in points if point["backbone"] == names[0]]
    assert len(of_first) == 1
    assert of_first[0]["lr_body"] < min(point["lr_body"] for point in STARTS["gpu"])


@pytest.mark.soak
def test_timm_has_every_backbone_cut_into_stages_with_weights_free_for_any_use() -> None:
    timm = pytest.importorskip("timm")
    import torch

    from maskcls.models.stages import stage_of_modules

    with_weights = set(timm.list_models(pretrained=True))
    for scale, names in BACKBONES.items():
        for name in (*names, *UNTRAINED[scale]):
            config = timm.get_pretrained_cfg(name)
            full = name if "." in name else f"{name}.{config.tag}"
            assert full in with_weights, name
            assert ("." in name) == (scale == "gpu"), "the GPU scale names the weights' tag"
            assert config.license in {"apache-2.0", "mit", "bsd-3-clause"}, (name, config.license)
            assert bool(config.fixed_input_size) <= name.startswith(_FIXED), name
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=0)
            assert set(stage_of_modules(model).values()) == {1, 2, 3, 4, 5}, name


def test_random_weights_at_cpu_scale_are_those_of_small_networks() -> None:
    space, untrained = search_spaces.get("backbones"), Setting("cpu", pretrained=False)
    trial = Fixed()
    overrides = space.suggest(trial, untrained)
    assert set(trial.choices["backbone"]) == set(UNTRAINED["cpu"])
    assert overrides["image_size"] <= 64
    assert {point["backbone"] for point in space.points(untrained)} <= set(UNTRAINED["cpu"])
    assert UNTRAINED["gpu"] == BACKBONES["gpu"]


def test_a_backbone_of_one_size_gets_it_undrawn() -> None:
    trial = Fixed(backbone="vit_small_patch16_224.augreg_in21k_ft_in1k")
    overrides = search_spaces.get("backbones").suggest(trial, Setting("gpu"))
    assert overrides["image_size"] == FIXED_SIZE
    assert "image_size" not in trial.choices


def test_what_hangs_on_a_choice_is_drawn_only_there() -> None:
    frozen, trained, linear, mlp = (
        Fixed(frozen_stages=5),
        Fixed(frozen_stages=4),
        Fixed(head="linear"),
        Fixed(head="mlp"),
    )
    for trial in (frozen, trained, linear, mlp):
        search_spaces.get("freezing").suggest(trial, Setting("gpu"))
    assert ("lr_body" in frozen.names, "lr_body" in trained.names) == (False, True)
    assert ("head_dropout" in linear.names, "head_dropout" in mlp.names) == (False, True)
    single, three = Fixed(task_split="single", sampler="none"), Fixed(task_split="three", sampler="oversample")
    for trial in (single, three):
        search_spaces.get("task_split").suggest(trial, Setting("gpu"))
    assert ("label_smoothing" in single.names, "class_weights" in single.names) == (True, True)
    assert ("label_smoothing" in three.names, "class_weights" in three.names) == (False, False)
    plain, mixup, cutmix = Fixed(mix="none"), Fixed(mix="mixup"), Fixed(mix="cutmix")
    for trial in (plain, mixup, cutmix):
        search_spaces.get("augmentation").suggest(trial, Setting("gpu"))
    assert ["mix_probability" in trial.names for trial in (plain, mixup, cutmix)] == [False, True, True]
    assert ["mix_alpha" in trial.names for trial in (plain, mixup, cutmix)] == [False, True, False]


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
    assert pinned.points(Setting("gpu")) == [{"lr_head": 1e-3}]


def test_a_wrong_pin_is_refused() -> None:
    pinned = search_spaces.get("augmentation").pinned({"augmentation": "some"})
    with pytest.raises(
        SpaceError, match="--set augmentation expects one of none, geometry, colour, both, but got 'some'"
    ):
        pinned.suggest(Fixed(), Setting("cpu"))
    with pytest.raises(SpaceError, match=r"--set frozen_stages expects a whole number, but got 2\.5"):
        search_spaces.get("freezing").pinned({"frozen_stages": 2.5}).suggest(Fixed(), Setting("cpu"))


@both_scales
def test_the_task_split_space_holds_every_split_the_cheap_ones_first(setting: Setting) -> None:
    assert set(task_split.SPLITS) == set(task_split.AGE_MEMBERS) == set(TASK_SPLITS)
    models = [len(TASK_SPLITS[name].models) for name in task_split.SPLITS]
    assert models == sorted(models) == [1, 1, 3, 3, 3, 4, 5]
    points = task_split.points(setting)
    assert [point["task_split"] for point in points] == list(task_split.SPLITS)
    for point in points:
        samplers = {value for name, value in point.items() if name.endswith("sampler")}
        assert samplers == {"oversample"}
        assert point.get("join", "hard") == "hard"


@pytest.mark.parametrize("split", TASK_SPLITS.values(), ids=TASK_SPLITS)
def test_the_join_is_drawn_where_the_two_can_decide_otherwise(split: TaskSplit) -> None:
    """Where each combination of labels is a class, each member's likeliest label makes the likeliest class."""
    sayable = math.prod(task.n_labels for task in split.tasks)
    assert (split.name in task_split.CONTRADICTING) == (sayable > 18)
    generator = np.random.default_rng(0)
    answers = [np.log(generator.dirichlet(np.ones(task.n_labels), 500)) for task in split.tasks]
    same = split.join(answers, "soft").argmax(1) == split.join(answers, "hard").argmax(1)
    assert same.all() == (split.name not in task_split.CONTRADICTING)


@both_scales
@pytest.mark.parametrize("name", ["task_split", "everything"])
def test_what_a_split_has_of_its_own_goes_with_it_alone(name: str, setting: Setting) -> None:
    joins, members = set(), set()
    for params, recipe in drawn(search_spaces.get(name), setting):
        split = recipe.split
        own = {parameter.split(".")[1] for parameter in params if parameter.startswith("members.")}
        assert own <= set(task_split.AGE_MEMBERS[split.name]) <= set(split.members)
        assert ("join" in params) == (split.name in task_split.CONTRADICTING)
        assert (
            not any(parameter.startswith("members.") and parameter.endswith("sampler") for parameter in params)
            or not split.shared
        )
        assert (
            any(parameter.endswith("loss_weight") for parameter in params if parameter != "second_loss_weight")
            == split.shared
        )
        joins.add((split.name, params.get("join")))
        members |= {(split.name, member) for member in own}
    assert {join for split, join in joins if split in task_split.CONTRADICTING} == {"soft", "hard"}
    silent = task_split.EVEN if setting.scale == "cpu" else ()
    assert members == {
        (split, member) for split, names in task_split.AGE_MEMBERS.items() for member in names if member not in silent
    }


def test_the_age_members_are_those_that_tell_the_age() -> None:
    for name, members in task_split.AGE_MEMBERS.items():
        telling = tuple(task.name for task in TASK_SPLITS[name].tasks if task.depends_on_age)
        assert members == (telling if name != "single" else ())


@both_scales
@pytest.mark.parametrize("name", ["imbalance", "task_split", "everything"])
def test_nothing_is_balanced_twice(name: str, setting: Setting) -> None:
    weighted = 0
    for params, recipe in drawn(search_spaces.get(name), setting):
        assert ("class_weights" in params) == (params["sampler"] == "none")
        for member in recipe.split.members:
            own = recipe.of_member(member)
            feeding = recipe.sampler if recipe.split.shared else own.sampler
            assert own.class_weights == "none" or feeding == "none", (member, recipe.members)
            weighted += own.class_weights == "balanced"
    assert weighted


@both_scales
@pytest.mark.parametrize("name", ["imbalance", "everything"])
def test_no_band_of_ages_deletes_what_the_boundary_moved(name: str, setting: Setting) -> None:
    seen = set()
    for _, recipe in drawn(search_spaces.get(name), setting):
        assert recipe.ages_left_out == "" or recipe.age_cut_old == 60
        seen.add((recipe.ages_left_out, recipe.age_cut_old))
    assert seen == {("", cut) for cut in range(55, 61)} | {(band, 60) for band in imbalance.AGES_LEFT_OUT}


@both_scales
@pytest.mark.parametrize("name", ["imbalance", "everything"])
def test_soft_f1_is_never_alone(name: str, setting: Setting) -> None:
    recipes = [recipe for _, recipe in drawn(search_spaces.get(name), setting)]
    assert {(recipe.loss, recipe.second_loss) for recipe in recipes} == {
        (first, second) for first in ("cross_entropy", "focal") for second in ("none", "soft_f1")
    }
    assert max(recipe.second_loss_weight for recipe in recipes) < 1


@both_scales
def test_a_pin_is_not_contradicted_by_what_is_drawn(setting: Setting) -> None:
    for name in ("imbalance", "everything"):
        moved = search_spaces.get(name).pinned({"age_cut_old": 58})
        assert {(recipe.age_cut_old, recipe.ages_left_out) for _, recipe in drawn(moved, setting, 50)} == {(58, "")}
        left_out = search_spaces.get(name).pinned({"ages_left_out": "57-59"})
        assert {recipe.age_cut_old for _, recipe in drawn(left_out, setting, 50)} == {60}
        weights = search_spaces.get(name).pinned({"class_weights": "balanced"})
        assert {recipe.sampler for _, recipe in drawn(weights, setting, 50)} == {"none"}
        assert "sampler" not in weights.parameters(setting)
    member = task_split.SPACE.pinned(
        {"task_split": "three", "members.age3.class_weights": "balanced", "sampler": "oversample"}
    )
    fed = [
        (recipe.of_member("age3").sampler, recipe.of_member("mask3").sampler)
        for _, recipe in drawn(member, setting, 50)
    ]
    assert set(fed) == {("none", "oversample")}


def test_two_pins_stand_as_they_are_given() -> None:
    both = search_spaces.get("imbalance").pinned({"sampler": "weighted", "class_weights": "balanced"})
    assert {(recipe.sampler, recipe.class_weights) for _, recipe in drawn(both, Setting("gpu"), 50)} == {
        ("weighted", "balanced")
    }


def test_points_of_a_pinned_split_are_whole_ones() -> None:
    points = search_spaces.get("task_split").pinned({"task_split": "three"}).points(Setting("cpu"))
    assert points == [{"sampler": "oversample", "lr_head": 1e-3, "members.age3.sampler": "oversample"}]


@both_scales
def test_everything_reaches_each_choice(setting: Setting) -> None:
    recipes = [recipe for _, recipe in drawn(search_spaces.get("everything"), setting)]
    fields = Recipe.model_fields
    assert {recipe.task_split for recipe in recipes} == set(TASK_SPLITS)
    assert {recipe.face_crop for recipe in recipes} == {"none", "yunet"}
    for key in ("sampler", "mix", "head", "join", "class_weights"):
        assert {getattr(recipe, key) for recipe in recipes} == set(fields[key].annotation.__args__), key  # type: ignore[union-attr]
    assert {recipe.loss for recipe in recipes} | {recipe.second_loss for recipe in recipes} == {
        "none",
        "cross_entropy",
        "focal",
        "soft_f1",
    }
    assert {recipe.frozen_stages for recipe in recipes} == set(range(6))
    assert {recipe.backbone for recipe in recipes} == set(BACKBONES[setting.scale])
    assert {recipe.ema_decay for recipe in recipes} == set(everything.EMA_DECAYS)
    assert {recipe.mix for recipe in recipes} == set(MIXES)


def test_everything_cuts_to_no_face_where_no_face_can_be_found() -> None:
    setting = Setting("cpu", finds_faces=False)
    space = search_spaces.get("everything")
    assert set(space.parameters(SCALES[0])) - set(space.parameters(setting)) == {"face_crop"}
    assert {recipe.face_crop for _, recipe in drawn(space, setting)} == {"none"}
    assert not any("face_crop" in point for point in space.points(setting))


@both_scales
def test_everything_draws_as_many_parameters_as_it_says(setting: Setting) -> None:
    """And each of them often enough to be found: `Space.parameters` knows only the names that its draws came upon."""
    draws = [params for params, _ in drawn(search_spaces.get("everything"), setting, _DRAWS)]
    times = Counter(name for params in draws for name in params)
    assert min(times.values()) >= 10
    assert set(times) == set(search_spaces.get("everything").parameters(setting))
    always = sum(n == _DRAWS for n in times.values())
    least, most, mean = {"gpu": (15, 35, 27), "cpu": (15, 29, 23)}[setting.scale]
    assert least <= min(map(len, draws)) <= max(map(len, draws)) <= most
    assert round(sum(map(len, draws)) / _DRAWS) == mean
    said = " ".join(str(everything.__doc__).split())
    assert f"{setting.scale.upper()} scale's {len(times)}" in said
    assert f"{always} always, and {least} to {most} in a trial, about {mean} on average" in said.replace(
        "are drawn always", "always"
    )


@both_scales
@pytest.mark.parametrize("split", task_split.SPLITS)
def test_a_pinned_split_leaves_every_other_name_to_be_found(split: str, setting: Setting) -> None:
    """What is drawn under some split is found, when that split is fixed, in the space as a whole as well."""
    space = search_spaces.get("everything")
    assert set(space.pinned({"task_split": split}).parameters(setting)) < set(space.parameters(setting))


@both_scales
@pytest.mark.parametrize("name", search_spaces.names())
def test_a_search_can_use_the_space(name: str, setting: Setting) -> None:
    """Every draw is a recipe, with values fixed or not; points stay points, and the preset's is the first of them."""
    space = search_spaces.get(name)
    base = preset("contest-2021", setting.scale)
    shown = next(parameter for parameter in space.parameters(setting) if parameter in Recipe.model_fields)
    for explicit in ({}, {shown: getattr(base, shown)}):
        pinned, pins = pinned_space(space, explicit, setting)
        assert pins == list(explicit)
        plan = SearchPlan(pinned, setting, base.override(explicit), explicit)
        vet(plan)
        known = initial_trials(plan)
        assert len(known) == len({str(sorted(point.items())) for point in known.values()}) >= 2


def test_a_space_sees_what_is_fixed_even_where_it_is_fixed_twice() -> None:
    def suggest(trial: Suggest, setting: Setting) -> dict[str, float]:
        return {**setting.fixed, "lr_head": trial.suggest_float("lr_head", 1e-4, 1e-2)}

    pinned = Space("seen", "Is it seen?", suggest).pinned({"focal_gamma": 1.0}).pinned({"weight_decay": 0.5})
    assert pinned.suggest(Fixed(), Setting("cpu")) == {"focal_gamma": 1.0, "weight_decay": 0.5, "lr_head": 1e-4}
