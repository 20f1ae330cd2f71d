"""What only a GPU can show. Skipped without one (marker `cuda`); `python -m tests.gpu` runs it where there is one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcls import machine
from maskcls.data.dataset import FaceDataset, prepare
from maskcls.errors import is_out_of_memory
from maskcls.models.precision import resolve_precision
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.gpu_memory import gpu_bytes
from tests.conftest import DemoFaces
from tune.fitting.failures import free_memory
from tune.fitting.gpu_sharing import Gpu

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

RECIPE = Recipe().override(
    {"backbone": "resnet18", "weights": "none", "image_size": 64, "batch_size": 16, "epochs": 2, "lr_body": 1e-3}
)
BROKEN = """
import torch
from tune.fitting.failures import is_unfit, state_of
try:
    torch.zeros(1, device="cuda")[torch.tensor([7], device="cuda")].item()
except RuntimeError as error:
    print(is_unfit(error), state_of(error))
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, demo_faces: DemoFaces) -> FaceDataset:
    return prepare(demo_faces(18, 1), cache=CacheOptions(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def memory_is_given_back() -> Iterator[None]:
    yield
    machine.give_back_memory()


def test_auto_is_bfloat16_and_the_first_gpu() -> None:
    assert machine.resolve_device("auto") == "cuda"
    assert resolve_precision("auto", "cuda", torch.nn.Identity()) == torch.bfloat16
    assert machine.hardware_name("cuda") == torch.cuda.get_device_name()
    assert set(machine.library_versions("cuda")) == {"cuda", "cudnn"}
    found = Gpu.here()
    assert found is not None
    assert found.n_bytes == torch.cuda.get_device_properties(0).total_memory


def test_larger_batches_take_more_memory_and_nothing_stays() -> None:
    small, large = (gpu_bytes(RECIPE.override({"batch_size": batch})) for batch in (16, 512))
    assert 0 < small < large < torch.cuda.get_device_properties(0).total_memory
    assert torch.cuda.memory_reserved() < small


def test_an_error_of_short_memory_is_known_and_what_it_held_is_freed() -> None:
    _, total = torch.cuda.mem_get_info()
    with pytest.raises(torch.OutOfMemoryError) as reported:
        torch.empty(2 * total, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(reported.value)
    free_memory(reported.value)
    assert torch.ones(1, device="cuda").item() == 1


def test_after_an_illegal_access_the_process_is_known_to_be_unfit() -> None:
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["True", "failed"], done.stderr


def test_a_checkpoint_of_a_gpu_goes_on_on_the_cpu_and_back(faces: FaceDataset, tmp_path: Path) -> None:
    data = FitData.of(faces, RECIPE)
    next(iter(Fit(RECIPE, data, "cuda").epochs(tmp_path)))
    on_cpu = Fit(RECIPE, data, "cpu")
    assert on_cpu.resume(tmp_path)
    assert [result.epoch for result in Fit(RECIPE, data, "cuda").epochs(tmp_path)] == [1, 2]


def test_the_gpu_predicts_what_the_cpu_predicts(faces: FaceDataset) -> None:
    """TF32 has 10 bits of mantissa: a thousandth of a logit's size, over all layers a few hundredths of log p."""
    data = FitData.of(faces, RECIPE)
    fit = Fit(RECIPE, data, "cuda")
    list(fit.epochs())
    on_gpu = fit.log_probs(data.validation)
    on_cpu = Fit(RECIPE, data, "cpu")
    for model, state in zip(on_cpu.models, fit.best_states(), strict=True):
        model.load_state_dict(state)
    on_cpu._best = [model.trainable_state() for model in on_cpu.models]
    assert np.abs(on_gpu - on_cpu.log_probs(data.validation)).max() < 0.1


def test_products_in_float32_are_exact_outside_the_block_and_rounded_inside() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    a, b = (torch.randn(512, 512, device="cuda", generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    with machine.matrix_precision():
        rounded = (a @ b - exact).abs().max().item()
    assert (a @ b - exact).abs().max().item() < 1e-3 < rounded < 1


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_processes_change_no_number(faces: FaceDataset, workers: int) -> None:
    machine.use_deterministic_kernels()
    data = FitData.of(faces, RECIPE)
    first, again = (list(Fit(RECIPE, data, "cuda", loader_workers=n).epochs()) for n in (0, workers))
    assert [result.train_loss for result in first] == [result.train_loss for result in again]
    assert [result.scores for result in first] == [result.scores for result in again]


def test_features_that_are_kept_give_nearly_the_curve_of_those_that_are_not(faces: FaceDataset) -> None:
    recipe = RECIPE.override({"frozen_stages": 5, "views": 2, "precision": "float32", "lr_head": 1e-3})
    data = FitData.of(faces, recipe)
    kept = Fit(recipe, data, "cuda", stores=faces.feature_stores(shared=True))
    live = Fit(recipe, data, "cuda")
    losses = [[result.train_loss for result in fit.epochs()] for fit in (kept, live)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)
