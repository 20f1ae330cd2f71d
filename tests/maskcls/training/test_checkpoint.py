"""A checkpoint on a disk that fails: what is damaged is noticed, set aside, and the fit begins again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from maskcls.errors import Damaged, Diverged, Missing
from maskcls.machine import set_threads
from maskcls.training import checkpoint
from maskcls.training.checkpoint import PREDICTED
from maskcls.training.checkpoint_files import STATE_FILE
from maskcls.training.fit import Fit
from tests.maskcls.training.small import RECIPE, data

SINGLE = RECIPE.override({"task_split": "single", "epochs": 2})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A checkpoint of one epoch, and the losses of both epochs."""
    set_threads(1)
    folder = tmp_path_factory.mktemp("kept")
    losses = []
    for result in Fit(SINGLE, data()).epochs(folder / "whole"):
        losses.append(result.train_loss)
        if result.epoch == 1:
            shutil.copytree(folder / "whole", folder / "state")
    return folder / "state", losses


@pytest.fixture
def folder(kept: tuple[Path, list[float]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept[0], tmp_path / "state"))


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)


def without_numbers(file: Path, of_predictions: bool = False) -> None:
    tensors = safetensors.torch.load_file(file)
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    next(tensor for name, tensor in floats.items() if (name == PREDICTED) == of_predictions).fill_(torch.nan)
    file.write_bytes(safetensors.torch.save(tensors))  # as an earlier version wrote it, without a checksum


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (STATE_FILE, lambda file: file.write_bytes(b"")),
        (STATE_FILE, flipped),
        ("best-1.safetensors", flipped),
        ("best-1.safetensors", without_numbers),
        ("best-1.safetensors", partial(without_numbers, of_predictions=True)),
        ("best-1.safetensors", Path.unlink),
    ],
    ids=["empty", "a bit of the state", "a bit of the weights", "nan", "nan predicted", "no weights"],
)
def test_a_damaged_checkpoint_is_set_aside_and_the_fit_begins_again(
    kept: tuple[Path, list[float]], folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    set_threads(1)
    damage(folder / name)
    with pytest.raises(Damaged, match="Remove the folder .* to begin this fit again"):
        checkpoint.load_best(folder)
    fit = Fit(SINGLE, data())
    assert [result.train_loss for result in fit.epochs(folder)] == kept[1]
    assert fit.notes()["message"].startswith("begun again, because its checkpoint was damaged (set aside as state.pt.1")
    assert (folder / f"{STATE_FILE}.1").exists()
    assert checkpoint.load_best(folder)[1].epoch in (1, 2)


def test_no_flipped_bit_becomes_a_weight(folder: Path) -> None:
    generator, whole = random.Random(0), checkpoint.load_best(folder)
    for name in [STATE_FILE, "best-1.safetensors"] * 20:
        file = folder / name
        content = file.read_bytes()
        place = generator.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :])
        try:
            found = checkpoint.load_best(folder)
        except Damaged:
            pass
        else:  # such as a date in the zip file
            assert found[:2] == whole[:2]
            assert all(torch.equal(found[2][0][key], tensor) for key, tensor in whole[2][0].items())
        file.write_bytes(content)


def test_a_checkpoint_without_a_checksum_is_read(folder: Path) -> None:
    file = folder / "best-1.safetensors"
    before = {name: tensor.clone() for name, tensor in checkpoint.load_best(folder)[2][0].items()}
    file.write_bytes(safetensors.torch.save({f"0:{name}": tensor for name, tensor in before.items()}))
    (after,) = checkpoint.load_best(folder)[2]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_where_there_is_none_nothing_is_damaged(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, SINGLE, "digest") is None
    with pytest.raises(Missing, match="holds no finished epoch"):
        checkpoint.load_best(tmp_path)


def test_statistics_that_are_not_finite_end_the_fit_although_every_probability_is() -> None:
    """Divided by an infinite variance, every photo gives the same finite probabilities."""
    fit = Fit(SINGLE, data())
    epochs = fit.epochs()
    next(epochs)
    name = next(name for name in fit.models[0].trainable_state() if name.endswith("running_var"))
    fit.models[0].state_dict()[name].fill_(torch.inf)
    with pytest.raises(Diverged, match=r"running_var is not finite after epoch 2\. A lower learning rate may help"):
        next(epochs)


def test_what_the_best_epoch_predicted_is_kept_with_its_weights(tmp_path: Path) -> None:
    folder, fit = tmp_path / "state", Fit(SINGLE, data())
    list(fit.epochs(folder))
    kept_there, rows = checkpoint.best_predictions(folder), fit.data.validation
    assert kept_there is not None
    result, of_best = kept_there
    assert result == fit.best
    assert np.array_equal(of_best, fit.log_probs(rows))
    again = Fit(SINGLE, data())
    again.resume(folder)
    assert again.log_probs(rows) is again._best_log_probs, "read, not computed again"
    assert np.array_equal(again.log_probs(rows), of_best)
    file = next(folder.glob("best-*"))
    with safetensors.safe_open(file, "pt") as stored:
        note = stored.metadata()
    tensors = safetensors.torch.load_file(file)
    damaged = {**tensors, PREDICTED: tensors[PREDICTED] + 0.1}
    file.write_bytes(safetensors.torch.save(damaged, note))
    with pytest.raises(Damaged, match="do not add up to one"):
        checkpoint.best_predictions(folder)
    del tensors[PREDICTED]
    file.write_bytes(safetensors.torch.save(tensors, note))
    assert checkpoint.best_predictions(folder) is None, "of an earlier version"
    file.unlink()
    assert checkpoint.best_predictions(folder) is None
