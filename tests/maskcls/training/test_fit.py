"""The loop: what it reports, what it keeps, and that a fit killed and resumed gives the numbers of one that was not."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcls.errors import Diverged, OutOfMemory, RunError
from maskcls.models.model import log_probabilities
from maskcls.recipe import Recipe
from maskcls.training import checkpoint as state
from maskcls.training.checkpoint_files import STATE_FILE
from maskcls.training.fit import Fit
from maskcls.training.model_fit import rate_factor
from maskcls.training.result import EpochResult
from tests.maskcls.training.small import RECIPE, data

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # sched.h


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def numbers(result: EpochResult) -> tuple[float, ...]:
    return (
        result.epoch,
        result.train_loss,
        result.validation_f1,
        result.photos,
        *np.nan_to_num(result.scores.class_f1),
    )


def finish(fit: Fit) -> list[EpochResult]:
    return list(fit.epochs())


def same_tensors(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
    return all(
        x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x) for x, y in zip(a, b, strict=True)
    )


def test_a_fit_learns_and_reports_every_epoch() -> None:
    recipe = RECIPE.override({"epochs": 8, "frozen_stages": 0, "lr_body": 1e-3, "head": "linear", "head_dropout": 0.0})
    results = finish(Fit(recipe, data()))
    assert [result.epoch for result in results] == list(range(1, 9))
    assert all(result.photos == 3 * 72 for result in results)
    assert results[-1].train_loss < results[0].train_loss / 2
    assert max(result.validation_f1 for result in results) > 0.5  # chance gives about 0.05
    assert set(results[0].scores.task_f1) == {"mask3", "gender2", "age3"}


@pytest.mark.slow
def test_an_epoch_draws_as_many_photos_as_the_recipe_says() -> None:
    for asked, drawn in ((20, 20), (72, 72), (1_000, 72)):
        recipe = RECIPE.override({"epochs": 2, "epoch_photos": asked})
        assert [result.photos for result in finish(Fit(recipe, data()))] == [3 * drawn] * 2
    whole = RECIPE.override({"epochs": 2})
    assert [numbers(result) for result in finish(Fit(whole, data()))] == [
        numbers(result) for result in finish(Fit(recipe, data()))
    ], "more than there are: a whole epoch"


def test_a_checkpoint_holds_the_optimizer_until_the_last_epoch_alone(tmp_path: Path) -> None:
    recipe = RECIPE.override({"task_split": "single", "epochs": 2})
    fit, held = Fit(recipe, data()), []
    for _ in fit.epochs(tmp_path):
        saved = state.load(tmp_path, recipe, fit.data.digest)
        assert saved is not None
        held.append(len(saved.optimizers))
    assert held == [1, 0]
    again = Fit(recipe, data())
    assert [numbers(result) for result in again.epochs(tmp_path)] == [numbers(result) for result in fit.history]
    assert same_tensors(again.best_states(), fit.best_states())
    latest = [[model.state_dict() for model in one.models] for one in (again, fit)]
    assert same_tensors(*latest), "of the last epoch, not of the best"


# A fresh interpreter takes up a state and prints the rest; run by name so that nothing of this process is inherited.
RESUME = """
import json, sys, torch
from pathlib import Path
from maskcls.training.fit import Fit
from tests.maskcls.training.small import RECIPE, data
torch.set_num_threads(1)
torch.randn(7)  # another place in torch's own random numbers
fit = Fit(RECIPE, data())
assert fit.resume(Path(sys.argv[1]))
print(json.dumps([[r.epoch, r.train_loss, r.validation_f1] for r in fit.epochs()]))
fit.save(Path(sys.argv[2]))
"""


@pytest.mark.soak
def test_a_fit_killed_after_an_epoch_goes_on_to_the_bit_in_a_fresh_process(tmp_path: Path) -> None:
    unbroken = Fit(RECIPE, data())
    results = finish(unbroken)
    killed = Fit(RECIPE, data())
    next(iter(killed.epochs()))
    killed.save(tmp_path / "killed")
    del killed
    other = subprocess.run(
        [sys.executable, "-c", RESUME, str(tmp_path / "killed"), str(tmp_path / "end")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(other.stdout) == [[r.epoch, r.train_loss, r.validation_f1] for r in results]
    unbroken.save(tmp_path / "unbroken")
    ends = [torch.load(tmp_path / name / STATE_FILE, weights_only=True) for name in ("end", "unbroken")]
    assert same_tensors(ends[0]["models"], ends[1]["models"])
    assert same_tensors(state.load_best(tmp_path / "end")[2], state.load_best(tmp_path / "unbroken")[2])


def test_the_number_of_loader_workers_changes_nothing() -> None:
    recipe = RECIPE.override({"epochs": 2})
    alone, helped = Fit(recipe, data()), Fit(recipe, data(), loader_workers=2)
    assert [numbers(r) for r in alone.epochs()] == [numbers(r) for r in helped.epochs()]
    assert same_tensors(alone.best_states(), helped.best_states())


@pytest.mark.slow
def test_the_models_of_a_split_share_the_loader_processes() -> None:
    recipe = RECIPE.override({"task_split": "five_binary", "epochs": 2, "members.worn.augment_flip": 0.0})
    before = set(multiprocessing.active_children())
    alone, helped = Fit(recipe, data()), Fit(recipe, data(), loader_workers=2)
    processes, curve = set(), []
    for result in helped.epochs():
        curve.append(numbers(result))
        processes |= set(multiprocessing.active_children()) - before
    assert len(processes) == 2, "in all, and the same in each epoch"
    assert curve == [numbers(result) for result in alone.epochs()]


def test_where_shared_memory_is_small_batches_go_through_pipes() -> None:
    """In a mount namespace of its own, /dev/shm has no room for a batch, as in a container with a default of 64 MB."""
    recipe = RECIPE.override({"task_split": "single", "epochs": 2, "batch_size": 72, "sampler": "none"})
    expected = [numbers(result) for result in Fit(recipe, data()).epochs()]
    fork = multiprocessing.get_context("fork")
    there, here = fork.Pipe()

    def trained() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        is_root = os.geteuid() == 0
        if libc.unshare(CLONE_NEWNS | (0 if is_root else CLONE_NEWUSER)) or libc.mount(
            b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=256k"
        ):
            there.send(None)
        else:
            there.send([numbers(result) for result in Fit(recipe, data(), loader_workers=2).epochs()])

    process = fork.Process(target=trained)
    process.start()
    there.close()
    try:
        found = here.recv()
    finally:
        process.join(60)
    if found is None:
        pytest.skip("no mount namespace may be made here")
    assert found == expected


def test_another_seed_gives_another_fit() -> None:
    recipe = RECIPE.override({"epochs": 1})
    first, second, again = (finish(Fit(recipe.override({"seed": seed}), data()))[0] for seed in (0, 1, 0))
    assert numbers(first) == numbers(again)
    assert first.train_loss != second.train_loss


def test_the_best_epoch_is_by_validation_f1_when_it_goes_up_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Fit(RECIPE.override({"epochs": 5}), data())
    scored, f1s = fit._scored, iter([0.2, 0.6, 0.3, 0.6, 0.1])
    monkeypatch.setattr(fit, "_scored", lambda log_probs: dataclasses.replace(scored(log_probs), f1=next(f1s)))
    states = []
    for _ in fit.epochs():
        states.append([{name: t.clone() for name, t in model.state_dict().items()} for model in fit.models])
    assert (fit.best_epoch, fit.best.validation_f1) == (2, 0.6)
    assert same_tensors(fit.best_states(), states[1])
    assert not same_tensors(fit.best_states(), states[4])
    kept = fit.log_probs(fit.data.validation)
    with fit.at_best() as models:
        assert np.array_equal(kept, log_probabilities(models, fit.recipe.split, fit.data.pixels, fit.data.validation))


def test_frozen_stages_do_not_move_in_a_fit() -> None:
    fit = Fit(RECIPE.override({"frozen_stages": 3, "epochs": 1}), data())
    before = {name: tensor.clone() for name, tensor in fit.models[0].state_dict().items()}
    finish(fit)
    moving = fit.models[0].trainable_state().keys()
    for name, tensor in fit.models[0].state_dict().items():
        if name not in moving:
            assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(fit.models[0].state_dict()[name], before[name]) for name in moving)


def test_a_loss_that_is_not_finite_ends_the_fit_as_diverged() -> None:
    recipe = RECIPE.override(
        {
            "optimizer": "sgd",
            "lr_head": 1e20,
            "lr_body": 1e20,
            "clip_norm": 0.0,
            "head": "linear",
            "loss": "cross_entropy",
        }
    )
    with pytest.raises(Diverged, match=r"not finite .*epoch \d.*lower learning rate"):
        finish(Fit(recipe, data()))


def test_a_state_of_another_recipe_or_other_data_is_refused(tmp_path: Path) -> None:
    fit = Fit(RECIPE.override({"epochs": 1}), data())
    finish(fit)
    fit.save(tmp_path)
    with pytest.raises(RunError, match="a fit of another recipe"):
        Fit(RECIPE.override({"epochs": 1, "seed": 3}), data()).resume(tmp_path)
    with pytest.raises(RunError, match="a fit on other data"):
        Fit(RECIPE.override({"epochs": 1}), dataclasses.replace(data(), digest="other")).resume(tmp_path)
    assert not Fit(RECIPE, data()).resume(tmp_path / "absent")


def test_memory_that_is_short_while_a_state_is_read_does_not_make_it_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / STATE_FILE)
    monkeypatch.setattr(torch, "load", lambda *_, **__: torch.empty(2**50, dtype=torch.uint8))
    with pytest.raises(OutOfMemory, match="does not fit into the memory. .*can't allocate memory"):
        Fit(RECIPE, data()).resume(tmp_path)


def test_a_full_disk_is_reported_and_the_state_before_it_is_unharmed(tmp_path: Path) -> None:
    """In a process of its own, in which no file may grow: what a full disk does to a write."""
    fork = multiprocessing.get_context("fork")
    there, here = fork.Pipe()

    def trained() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        fit = Fit(RECIPE, data())
        epochs = fit.epochs()
        next(epochs)
        fit.save(tmp_path)
        next(epochs)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            fit.save(tmp_path)
        except OSError as error:
            there.send((error.errno, error.filename))

    process = fork.Process(target=trained)
    process.start()
    there.close()
    try:
        number, file = here.recv()
    finally:
        process.join(60)
    assert number == errno.EFBIG
    assert Path(file).parent == tmp_path
    fit = Fit(RECIPE, data())
    assert fit.resume(tmp_path)
    assert len(fit.history) == 1
    assert {file.name for file in tmp_path.iterdir()} == {STATE_FILE, f"best-{fit.best_epoch}.safetensors"}


@pytest.mark.parametrize(
    ("epochs", "factor"),
    [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (2.0, (1 + 0.5**0.5) / 2), (3.0, 0.5), (5.0, 0.0)],
)
def test_cosine_annealing_reaches_zero_over_the_epochs_that_really_run(epochs: float, factor: float) -> None:
    recipe = Recipe().override({"epochs": 5, "warmup_epochs": 1.0, "schedule": "cosine"})
    assert rate_factor(recipe, epochs) == pytest.approx(factor, abs=1e-9)
    assert rate_factor(recipe.override({"schedule": "constant"}), epochs) == pytest.approx(min(epochs, 1.0))
