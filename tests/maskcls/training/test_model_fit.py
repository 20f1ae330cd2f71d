"""One model's side of a fit: members' own values, heads on one backbone, moving averages, mixed batches, ages."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from maskcls.models.backbones import Backbone
from maskcls.recipe import Recipe
from maskcls.training.fit import Fit
from tests.maskcls.training.small import RECIPE, data
from tests.maskcls.training.test_fit import numbers, same_tensors

SINGLE = RECIPE.override({"task_split": "single", "epochs": 3})
SHARED = RECIPE.override({"task_split": "shared_heads", "epochs": 3})
# One recipe for each thing that adds state or randomness to a fit.
CHOICES: dict[str, Recipe] = {
    "average": SINGLE.override({"ema_decay": 0.9}),
    "mixup": SINGLE.override({"mix": "mixup", "second_loss": "soft_f1"}),
    "cutmix": SHARED.override({"mix": "cutmix", "mix_probability": 0.5, "age_regression": 0.5}),
    "half_cutmix": SINGLE.override({"mix": "half_cutmix", "sampler": "square_root"}),
    "age_regression": SINGLE.override({"age_regression": 1.0}),
    "shared_heads": SHARED,
    "soft_f1": SHARED.override({"loss": "soft_f1", "sampler": "weighted"}),
    "own_values": RECIPE.override(
        {
            "members.age3.ema_decay": 0.5,
            "members.age3.backbone": "test_efficientnet",
            "members.mask3.mix": "mixup",
            "epoch_photos": 50,
        }
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "average" else pytest.mark.slow) for name in CHOICES],
)
def test_killed_and_resumed_it_goes_on_to_the_bit(name: str, tmp_path: Path) -> None:
    unbroken, killed, resumed = (Fit(CHOICES[name], data()) for _ in range(3))
    results = list(unbroken.epochs())
    next(iter(killed.epochs()))
    killed.save(tmp_path)
    torch.randn(5)  # another place in torch's own random numbers
    assert resumed.resume(tmp_path)
    assert [numbers(result) for result in resumed.epochs()] == [numbers(result) for result in results]
    assert same_tensors(resumed.best_states(), unbroken.best_states())


def test_what_is_kept_is_the_average_and_the_model_goes_on_unaveraged() -> None:
    plain, averaged = Fit(SINGLE, data()), Fit(CHOICES["average"], data())
    assert [r.train_loss for r in averaged.epochs()] == [r.train_loss for r in plain.epochs()]
    assert same_tensors([m.state_dict() for m in averaged.models], [m.state_dict() for m in plain.models])
    assert not same_tensors(averaged.best_states(), plain.best_states())


def test_the_average_is_its_formula() -> None:
    """timm's warm-up 1 - (1 + step) ** (-2 / 3), up to the decay, written out once more for one tensor."""
    fit = Fit(SINGLE.override({"ema_decay": 0.9, "epochs": 1}), data())
    (model_fit,) = fit.model_fits
    name = "heads.classes.0.weight"
    expected = model_fit.model.state_dict()[name].clone()
    for step, (pixels, positions) in enumerate(model_fit.batches.epoch(0), start=1):
        model_fit.step(pixels, positions, step - 1)
        decay = min(1 - step ** (-2 / 3), 0.9) if step > 1 else 0.0
        expected = decay * expected + (1 - decay) * model_fit.model.state_dict()[name]
    torch.testing.assert_close(model_fit.eval_model.state_dict()[name], expected)


def test_heads_of_a_shared_backbone_see_the_same_photos_and_all_move_it() -> None:
    fit = Fit(SHARED.override({"frozen_stages": 0}), data())
    (model_fit,) = fit.model_fits
    assert [task.name for task in model_fit.model.tasks] == ["mask3", "gender2", "age3"]
    pixels, positions = next(model_fit.batches.epoch(0))
    for number, head_loss in enumerate(model_fit.head_losses):  # one head's loss at a time
        copied = copy.deepcopy(model_fit.model)
        logits = copied.logits(copied.backbone(copied.normalise(pixels)))[number]
        head_loss(logits, None, positions, None).backward()
        stem = next(copied.backbone.parameters())
        assert stem.grad is not None
        assert stem.grad.abs().sum() > 0


def test_each_head_learns_at_its_own_rate_and_weight() -> None:
    recipe = SHARED.override(
        {"members.age3.lr_head": 0.5, "members.age3.loss_weight": 3.0, "lr_head": 0.25, "lr_body": 0.125}
    )
    (model_fit,) = Fit(recipe, data()).model_fits
    rates = {id(p): group["lr"] for group in model_fit.optimizer.param_groups for p in group["params"]}
    heads = {name: {rates[id(p)] for p in head.parameters()} for name, head in model_fit.model.heads.items()}
    assert heads == {"mask3": {0.25}, "gender2": {0.25}, "age3": {0.5}}
    assert {rates[id(p)] for p in model_fit.model.backbone.parameters() if p.requires_grad} == {0.125}
    logits, positions = torch.zeros(4, 3), torch.arange(4)
    mask, age = (model_fit.head_losses[at](logits, None, positions, None).item() for at in (0, 2))
    assert age == pytest.approx(3 * mask)


def test_weight_decay_exempts_what_timm_exempts() -> None:
    named = {"vit_tiny_patch16_224": {"pos_embed", "cls_token"}, "resnet10t": set(), "mobilenetv3_small_050": set()}
    for backbone, exempt in named.items():
        recipe = SINGLE.override({"backbone": backbone, "frozen_stages": 0, "weight_decay": 0.1})
        model_fit = Fit(recipe, data()).model_fits[0]
        of_network = dict(model_fit.model.backbone.model.named_parameters())
        by_optimizer = model_fit.optimizer.param_groups
        decayed = {id(p) for group in by_optimizer if group["weight_decay"] for p in group["params"]}
        matrices = {name for name, parameter in of_network.items() if parameter.ndim > 1}
        assert {name for name, parameter in of_network.items() if id(parameter) in decayed} == matrices - exempt
        assert exempt <= matrices, backbone


@pytest.mark.soak
def test_a_fit_that_was_begun_before_the_exemptions_goes_on_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = SINGLE.override(
        {"backbone": "vit_tiny_patch16_224", "frozen_stages": 0, "weight_decay": 0.1, "lr_body": 1e-2, "epochs": 2}
    )
    with monkeypatch.context() as before:
        before.setattr(Backbone, "exempt_from_decay", lambda self: [])
        unbroken = [numbers(result) for result in Fit(recipe, data()).epochs()]
        killed = Fit(recipe, data())
        next(iter(killed.epochs()))
        killed.save(tmp_path)
    resumed = Fit(recipe, data())
    assert resumed.resume(tmp_path)
    assert [numbers(result) for result in resumed.epochs()] == unbroken
    assert [numbers(result) for result in Fit(recipe, data()).epochs()] != unbroken


def test_a_members_own_values_are_its_models() -> None:
    fit = Fit(CHOICES["own_values"], data())
    mask, gender, age = fit.model_fits
    assert (mask.recipe.mix, gender.recipe.mix) == ("mixup", "none")
    assert (age.recipe.backbone, mask.recipe.backbone) == ("test_efficientnet", RECIPE.backbone)
    assert (mask.average, gender.average) == (None, None)
    assert age.average is not None


def test_ages_are_regressed_only_where_labels_depend_on_them() -> None:
    recipe = RECIPE.override({"age_regression": 0.5})
    with_ages = [list(model.age_heads) for model in Fit(recipe, data()).models]
    assert with_ages == [[], [], ["age3"]]


def test_the_regression_learns_the_ages() -> None:
    """Patches' hue tells the age group, and each group has one age here: after a few epochs the answers order them."""
    recipe = SINGLE.override(
        {"age_regression": 3.0, "epochs": 6, "frozen_stages": 0, "lr_body": 1e-3, "augment_probability": 0.0}
    )
    fit = Fit(recipe, data())
    list(fit.epochs())
    model = fit.models[0].eval()
    rows = fit.data.validation
    with torch.inference_mode():
        (predicted,) = model.ages(model.backbone(model.normalise(torch.from_numpy(fit.data.pixels[rows]))))
    assert predicted is not None
    means = [predicted[torch.from_numpy(fit.data.ages[rows]) == age].mean().item() for age in (25, 45, 62)]
    assert means[0] < means[1] < means[2]


def test_mixing_changes_what_is_learnt_and_the_seed_which_batches() -> None:
    first = {}
    for name, values in (("none", {}), ("mixup", {"mix": "mixup"}), ("another seed", {"mix": "mixup", "seed": 9})):
        first[name] = next(iter(Fit(SINGLE.override(values), data()).epochs())).train_loss
    assert len(set(first.values())) == 3


def test_a_step_in_bfloat16_is_finite_and_leaves_weights_in_float32() -> None:
    values = {
        "precision": "bfloat16",
        "mix": "cutmix",
        "second_loss": "soft_f1",
        "class_weights": "balanced",
        "age_regression": 0.5,
    }
    (model_fit,) = Fit(SHARED.override({**values, "ema_decay": 0.9}), data()).model_fits
    pixels, positions = next(model_fit.batches.epoch(0))
    assert torch.isfinite(model_fit.step(pixels, positions))
    assert model_fit.average is not None
    for tensor in (*model_fit.model.parameters(), *model_fit.eval_model.parameters()):
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()


@pytest.mark.soak
def test_a_compiled_backbone_learns_what_the_plain_one_does() -> None:
    """Compiling takes most of a minute."""
    recipe = RECIPE.override(
        {"frozen_stages": 0, "epochs": 1, "task_split": "single", "head": "linear", "head_dropout": 0.0}
    )
    plain, compiled = (Fit(recipe.override({"compile": wanted}), data()) for wanted in (False, True))
    assert isinstance(compiled.model_fits[0]._backbone, torch._dynamo.OptimizedModule)
    assert next(compiled.epochs()).train_loss == pytest.approx(next(plain.epochs()).train_loss, rel=1e-2)
    assert compiled.best_states()[0].keys() == plain.best_states()[0].keys()
