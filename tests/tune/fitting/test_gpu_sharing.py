"""`--gpus-per-trial auto`: which recipes are measured, what is kept of it, and how many trials then share a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from maskcls.errors import CallError
from maskcls.recipe import Recipe
from maskcls.training.gpu_memory import STEPS, rehearse
from tests import commands
from tests.tune.search.test_options import options
from tune.compare import __main__ as compare
from tune.fitting.gpu_sharing import FILE, MARGIN, MOST, Gpu, fraction, heaviest, share_gpus
from tune.runs.cluster import Cluster, Node
from tune.runs.joined_ray import gpu_types
from tune.runs.options import AUTO
from tune.runs.shares import Demand
from tune.search import __main__ as search
from tune.search.options import Resolved, SearchOptions, at_a_time, resolve
from tune.search.plan import drawn_recipes

GB = 10**9
CARD = Gpu("A card of 80 GB", 80 * GB)
ONE_GPU = Cluster((Node(16, 1),))


class Scale:
    """What weighs recipes as a GPU would, by their photos, and counts what it was given."""

    def __init__(self, bytes_a_pixel: float = 1000.0, most: int = CARD.n_bytes) -> None:
        self.bytes_a_pixel, self.most = bytes_a_pixel, most
        self.weighed: list[Recipe] = []

    def __call__(self, recipe: Recipe) -> int:
        self.weighed.append(recipe)
        taken = int(self.bytes_a_pixel * recipe.batch_size * recipe.image_size**2)
        if taken > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return taken


def asked(machine: Cluster = ONE_GPU, **stated: Any) -> tuple[SearchOptions, Resolved]:
    asked = options(**{"gpus_per_trial": AUTO, "weights": "none", **stated})
    return asked, resolve(asked, machine)


def pack(
    cache: Path,
    measure: Any,
    machine: Cluster = ONE_GPU,
    gpu: Gpu | None = CARD,
    report: Callable[[str], None] = lambda line: None,
    **stated: Any,
) -> Resolved:
    """The plan that shares GPUs as it is measured."""
    asked_for, resolved = asked(machine, cache=cache, **stated)
    plan = resolved.plan
    return resolved.shared(
        *share_gpus(
            resolved.share,
            Demand(drawn_recipes(plan), asked_for, machine, plan.setting.scale, at_a_time(plan.trials), "trial"),
            report=report,
            find_gpu=lambda: gpu,
            measure=measure,
        )
    )


@given(taken=st.integers(10**7, 10**12), total=st.integers(10**9, 10**12))
def test_a_share_is_one_of_k_that_fit_and_ray_can_hand_out_k(taken: int, total: int) -> None:
    share = fraction(taken, total)
    k = int(1 / share)
    assert 1 <= k <= MOST
    assert round(share * 10_000) * k <= 10_000, "as Ray counts"
    assert Cluster((Node(64, 1),)).room(1, share) == k
    assert k == 1 or k * MARGIN * taken <= total * (1 + 1e-9)
    assert k == MOST or (k + 1) * MARGIN * taken > total


@pytest.mark.parametrize(
    ("taken_gb", "share"),
    [(80, 1.0), (200, 1.0), (34, 1.0), (33, 0.5), (22, 0.3333), (16, 0.25), (10, 0.1666), (4, 0.0625), (0.1, 0.0625)],
)
def test_shares_of_80_gb(taken_gb: float, share: float) -> None:
    assert fraction(int(taken_gb * GB), CARD.n_bytes) == share


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize("space", search_spaces.names())
def test_no_trial_is_larger_than_what_is_measured(space: str, scale: str) -> None:
    _, resolved = asked(space=space, scale=scale)
    measured = {recipe.backbones: recipe for recipe in heaviest(drawn_recipes(resolved.plan))}
    drawn = list(drawn_recipes(resolved.plan))
    assert {recipe.backbones for recipe in drawn} == measured.keys()
    for recipe in drawn:
        largest = measured[recipe.backbones]
        for key in ("image_size", "batch_size", "ema_decay", "age_regression"):
            assert getattr(recipe, key) <= getattr(largest, key)
        assert recipe.frozen_stages >= largest.frozen_stages
        assert len(recipe.split.models) <= len(largest.split.models)
        assert recipe.head == "linear" or (largest.head == "mlp" and recipe.head_width <= largest.head_width)


def test_a_space_of_backbones_has_each_measured_and_what_is_pinned_stays() -> None:
    _, resolved = asked(space="backbones", weights="hub", set=("frozen_stages=2", "batch_size=32"))
    measured = heaviest(drawn_recipes(resolved.plan))
    assert {recipe.backbone for recipe in measured} == set(resolved.plan.space.backbones(resolved.plan.setting))
    assert {(recipe.frozen_stages, recipe.batch_size) for recipe in measured} == {(2, 32)}
    assert {recipe.image_size for recipe in measured} == {224, 384}, "transformers have one size"
    _, free = asked(space="freezing", weights="hub")
    assert [
        (recipe.backbone, recipe.frozen_stages, recipe.head_width) for recipe in heaviest(drawn_recipes(free.plan))
    ] == [("tf_efficientnet_b4.ns_jft_in1k", 0, 4096)]


def test_trials_share_the_gpu_by_the_largest_recipe(tmp_path: Path) -> None:
    scale = Scale(1700.0)  # 384 px: 16.04 GB
    resolved = pack(tmp_path, scale, space="backbones", set=("batch_size=64",), data=tmp_path)
    assert len(scale.weighed) == len({recipe.backbone for recipe in scale.weighed}) == 15
    assert (resolved.plan.gpus, resolved.plan.parallel, resolved.plan.cpus) == (0.25, 4, 4)
    reported = resolved.notes[-1]
    assert reported.startswith("--gpus-per-trial auto is 0.25: up to 4 trials share a GPU.")
    assert reported.endswith("at 384 px, batches of 64, takes 16.0 of the 80 GB of A card of 80 GB.")


@pytest.mark.parametrize(
    ("machine", "stated", "expected"),
    [
        (ONE_GPU, {"trials": 12}, (4, 4, 0.0625)),  # a third of the trials
        (ONE_GPU, {"trials": 60}, (16, 1, 0.0625)),
        (ONE_GPU, {"trials": 1}, (1, 16, 0.0625)),
        (ONE_GPU, {"trials": 12, "parallel": 9}, (9, 1, 0.0625)),
        (ONE_GPU, {"trials": 60, "cpus_per_trial": 4}, (4, 4, 0.0625)),
        (Cluster((Node(16, 4),)), {"trials": 3}, (4, 4, 0.0625)),  # but one a GPU
    ],
)
def test_small_trials_are_as_many_as_the_sampler_and_the_cores_bear(
    machine: Cluster, stated: dict[str, Any], expected: tuple[int, int, float], tmp_path: Path
) -> None:
    plan = pack(tmp_path, Scale(1.0), machine, **stated).plan
    assert (plan.parallel, plan.cpus, plan.gpus) == expected


def test_what_was_measured_is_kept_by_all_that_it_depends_on(tmp_path: Path) -> None:
    first, again, other_card, larger = Scale(), Scale(), Scale(), Scale()
    said: list[str] = []
    made = pack(tmp_path, first, report=said.append)
    assert "Measuring how much GPU memory" in said.pop()
    assert pack(tmp_path, again, report=said.append).notes == made.notes
    assert said == []
    pack(tmp_path, other_card, gpu=Gpu("Another card", 24 * GB))
    pack(tmp_path, larger, set=("batch_size=64",))
    assert [len(scale.weighed) for scale in (first, again, other_card, larger)] == [1, 0, 1, 1]
    kept = json.loads((tmp_path / FILE).read_text())
    keys = [json.loads(key) for key in kept]
    assert {key["gpu"] for key in keys} == {"A card of 80 GB", "Another card"}
    assert {"backbone", "image_size", "frozen_stages", "batch_size", "precision"} <= keys[0].keys()
    (tmp_path / FILE).write_text(json.dumps(kept)[:-9])
    pack(tmp_path, again)
    assert len(again.weighed) == 1, "a damaged file is measured again"


def test_a_cache_that_cannot_be_written_is_reported(unprivileged: Path) -> None:
    unprivileged.chmod(0o500)
    said: list[str] = []
    assert pack(unprivileged, Scale(), report=said.append).plan.gpus < 1
    assert "What was measured of the GPU's memory is not kept" in said[-1]


def test_a_cache_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    said: list[str] = []
    assert pack(tmp_path / "cache", Scale(), report=said.append).plan.gpus < 1
    assert "What was measured of the GPU's memory is not kept" in said[-1]


def test_what_does_not_fit_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    scale = Scale(most=10**6)
    resolved = pack(tmp_path, scale)
    assert (resolved.plan.gpus, resolved.plan.parallel) == (1.0, 1)
    assert resolved.notes[-1].endswith(
        "does not fit into the 80 GB of A card of 80 GB; trials of it go in micro-batches."
    )


def test_an_error_that_is_none_of_memory_ends_the_search(tmp_path: Path) -> None:
    def broken(recipe: Recipe) -> int:
        raise KeyError(recipe.backbone)

    with pytest.raises(KeyError):
        pack(tmp_path, broken)
    assert not (tmp_path / FILE).exists()


def test_without_a_gpu_a_trial_has_none(tmp_path: Path) -> None:
    scale = Scale()
    cases: tuple[tuple[Cluster, dict[str, Any], str], ...] = (
        (ONE_GPU, {"scale": "cpu"}, "in CPU scale trials use no GPU"),
        (Cluster((Node(2, 0),)), {}, "in CPU scale trials use no GPU"),
        (Cluster((Node(2, 0),)), {"scale": "gpu"}, "there is no GPU"),
    )
    for machine, stated, reason in cases:
        resolved = pack(tmp_path, scale, machine, **stated)
        assert resolved.plan.gpus == 0
        assert resolved.notes[-1] == f"--gpus-per-trial auto is 0: {reason}."
    assert scale.weighed == []


def test_a_driver_without_a_gpu_cannot_measure_for_its_cluster(tmp_path: Path) -> None:
    with pytest.raises(
        CallError,
        match=r"measures on a GPU of the machine that the search is started on, and torch finds none here\. Start",
    ):
        pack(tmp_path, Scale(), Cluster((Node(4, 0), Node(8, 2))), gpu=None)


def test_a_number_is_taken_as_it_is(tmp_path: Path) -> None:
    scale = Scale()
    asked_for, resolved = asked(gpus_per_trial="0.5")
    assert asked_for.gpus_per_trial == 0.5
    assert pack(tmp_path, scale, gpus_per_trial="0.5").notes == resolved.notes
    assert (resolved.plan.gpus, scale.weighed) == (0.5, [])


def test_planning_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack(tmp_path, Scale())
    assert capsys.readouterr() == ("", "")


BOTH = pytest.mark.parametrize(
    ("main", "words", "unit"),
    [(search.main, ("--space", "freezing"), "trial"), (compare.main, ("--vary", "loss=cross_entropy"), "fit")],
    ids=["search", "compare"],
)


@BOTH
def test_the_command_takes_auto_and_numbers_alone(main: Any, words: tuple[str, ...], unit: str) -> None:
    said = commands.call(main, *words, "--plan", "--scale", "cpu", "--gpus-per-trial", "auto")
    assert said.status == 0, said.err
    assert said.err.count("--gpus-per-trial auto is 0:") == 1
    assert f"--gpus-per-trial auto is 0: in CPU scale {unit}s use no GPU." in said.err
    for text in ("half", "nan", "inf", ""):
        expected = f"--gpus-per-trial expects auto, or a number of GPUs, as in 1 or 0.25, but got {text!r}."
        assert commands.call(main, *words, "--plan", "--gpus-per-trial", text) == commands.Said(
            2, "", f"Error: {expected}\n"
        )
    assert (
        "--gpus-per-trial must be at least 0, but got -1.0."
        in commands.call(main, *words, "--gpus-per-trial", "-1").err
    )


@BOTH
def test_fits_of_a_search_and_of_a_comparison_share_a_gpu(
    main: Any, words: tuple[str, ...], unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = Scale(61_000.0)  # 64 px, 64 photos: 16.0 GB
    monkeypatch.setattr("tune.runs.cluster.is_up", lambda: False)  # a Ray of earlier tests
    monkeypatch.setattr("tune.runs.cluster.here", lambda: ONE_GPU)
    monkeypatch.setattr(Gpu, "here", lambda: CARD)
    monkeypatch.setattr("maskcls.training.gpu_memory.gpu_bytes", scale)
    words = (*words, "--image-size", "64", "--set", "batch_size=64")
    said = commands.call(main, *words, *("--plan", "--gpus-per-trial", "auto", "--cache", tmp_path))
    assert said.status == 0, said.err
    of_preset = {"trial": "tf_efficientnet_b4.ns_jft_in1k", "fit": "resnext101_32x8d.tv_in1k"}[unit]
    shared = f"--gpus-per-trial auto is 0.25: up to 4 {unit}s share a GPU. {of_preset} at 64"
    assert said.err.count(shared) == 1
    assert "4 at a time, 4 cores" in said.out
    assert "0.25 GPUs each" in " ".join(said.out.split())
    assert [(recipe.image_size, recipe.batch_size) for recipe in scale.weighed] == [(64, 64)]


SMALL = Recipe(
    backbone="test_resnet", image_size=32, frozen_stages=0, batch_size=40, lr_head=1e6, lr_body=1e6, epochs=9
)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"frozen_stages": 3, "views": 2, "mix": "mixup", "ema_decay": 0.9},
        {
            "age_cut_old": 70,
            "ages_left_out": "57-99",
            "sampler": "oversample",
            "task_split": "shared_heads",
            "age_regression": 0.5,
        },
        {
            "task_split": "three",
            "members.age3.batch_size": 50,
            "members.age3.lr_head": 1e6,
            "members.age3.ages_left_out": "18-30",
        },
    ],
)
def test_a_rehearsal_is_an_epoch_of_whole_batches_whatever_the_recipe_says(values: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    recipe = SMALL.override(values)
    result = rehearse(recipe, "cpu")
    whole = max(recipe.of_model(tasks).batch_size for tasks in recipe.split.models)
    assert result.photos == len(recipe.split.models) * STEPS * whole
    assert 0 < result.train_loss < 20, "it learns without harm"
    assert result.validation_f1 >= 0


@pytest.fixture
def _any_type_afterwards() -> Iterator[None]:
    yield
    gpu_types.run_on("")


@pytest.mark.usefixtures("_any_type_afterwards")
def test_trials_run_on_the_type_that_was_measured(tmp_path: Path) -> None:
    mixed = Cluster((Node(16, 1, "H100", is_here=True), Node(16, 8, "A10G"), Node(16, 1, "H100"), Node(8, 0)))
    assert gpu_types.asked(0.5) == {}
    resolved = pack(tmp_path, Scale(), mixed, trials=99)
    assert gpu_types.asked(resolved.plan.gpus) == {"accelerator_type:H100": 0.001}
    assert gpu_types.asked(0.0) == {}
    assert resolved.plan.parallel == 2 * MOST
    assert "Trials run on GPUs of the type H100 alone, on which this is measured, and not on A10G" in resolved.notes[-1]


@pytest.mark.usefixtures("_any_type_afterwards")
def test_a_node_of_another_type_that_joins_later_gets_no_trial(tmp_path: Path) -> None:
    resolved = pack(tmp_path, Scale(), Cluster((Node(16, 1, "H100", is_here=True), Node(16, 8, "H100"))), trials=99)
    assert gpu_types.asked(resolved.plan.gpus) == {"accelerator_type:H100": 0.001}
    assert "of the type" not in " ".join(resolved.notes), "nothing is left out now"


@pytest.mark.parametrize(
    "nodes",
    [
        (Node(16, 1, is_here=True), Node(16, 8)),  # Ray does not know
        (Node(16, 0, is_here=True), Node(16, 1, "H100"), Node(16, 8, "A10G")),  # measured where there is none for Ray
    ],
)
@pytest.mark.usefixtures("_any_type_afterwards")
def test_trials_run_anywhere_where_the_type_is_unknown(nodes: tuple[Node, ...], tmp_path: Path) -> None:
    resolved = pack(tmp_path, Scale(), Cluster(nodes), trials=99)
    assert gpu_types.asked(1.0) == {}
    assert "of the type" not in " ".join(resolved.notes)


def test_the_type_of_a_node_is_what_ray_names() -> None:
    assert gpu_types.type_of({"CPU": 8.0, "node:10.0.0.1": 1.0, "accelerator_type:A10G": 1.0}) == "A10G"
    assert gpu_types.type_of({"CPU": 8.0}) == ""
