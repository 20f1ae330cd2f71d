"""A fit's checkpoint on disk: enough to resume exactly, and the best epoch's weights.

    state.pt                recipe, data digest, history, latest trainable weights, moving averages, and optimizers
                            until the last epoch
    best-<n>.safetensors    trainable weights of the best epoch n, keys `<model>:<tensor>`, what it predicted for the
                            validation photos, and its recipe and result

After the fit only the second is needed (`checkpoint_files`).

No random state is stored: all that is random in an epoch comes from (seed, model, epoch). Frozen stages are not stored
either: they are what the recipe's weights say. `state.pt` is written last and names the best epoch's file, so a kill
between the two loses nothing.

Both carry checksums, for a flipped bit would otherwise be weights like others: `state.pt` is a zip file, which has one
for each record, and torch does not look at them; the best epoch's has one in its metadata (files of earlier versions
have none, and are read all the same).
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from maskcls.errors import Damaged, Missing, RunError, is_out_of_memory
from maskcls.files import FileKind, replacing, set_aside
from maskcls.models.weights import not_finite
from maskcls.recipe import Recipe
from maskcls.text import first
from maskcls.training.checkpoint_files import (
    BEST,
    N_MODELS,
    NOTE_CHECKSUM,
    RECIPE,
    REMEDY,
    RESULT,
    STATE_FILE,
    best_name,
    note_checksum,
    note_of,
    weights_alone,
)
from maskcls.training.metrics import Scores
from maskcls.training.result import EpochResult

STATE = FileKind("a checkpoint", REMEDY, most_bytes=1 << 44)
CHECKSUM = "crc32"
"""Key of the metadata of the best epoch's weights."""
PREDICTED = "validation"
"""Key, beside those of the weights, of the best epoch's log probabilities for the validation photos."""
SUM_TOLERANCE = 1e-3
"""Of a photo's probabilities around 1."""


@dataclass(frozen=True)
class SavedState:
    """What `save` was given: one entry per model in `best`, `models`, `optimizers`, one per average in `averages`.

    After the recipe's last epoch there are no `optimizers`. `best_log_probs` are None in files of earlier versions.
    """

    history: list[EpochResult]
    best_epoch: int
    best: list[dict[str, Tensor]]
    best_log_probs: NDArray[np.float64] | None
    models: list[dict[str, Tensor]]
    averages: list[dict[str, Tensor]]
    optimizers: list[dict[str, Any]]


def save(
    folder: Path,
    *,
    recipe: Recipe,
    data_digest: str,
    history: Sequence[EpochResult],
    best_epoch: int,
    best: Sequence[dict[str, Tensor]],
    best_log_probs: NDArray[np.float64] | None,
    models: Sequence[dict[str, Tensor]],
    averages: Sequence[dict[str, Tensor]],
    optimizers: Sequence[dict[str, Any]],
) -> None:
    """Write the checkpoint, each file under a temporary name first.

    Args:
        best_log_probs: (n, 18) of the best epoch for the n validation photos; None where there are none.

    Raises OSError, as for a full disk; the checkpoint that was there is then unharmed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    best_file = folder / best_name(best_epoch)
    # A killed attempt at this very epoch may have left its file; an earlier best epoch's file is there and stays.
    if best_epoch == len(history) or not best_file.exists():
        flat = {f"{number}:{name}": tensor for number, state in enumerate(best) for name, tensor in state.items()}
        if best_log_probs is not None:
            flat[PREDICTED] = torch.from_numpy(best_log_probs)
        result = history[best_epoch - 1]
        values = json.dumps({**dataclasses.asdict(result), "scores": result.scores.to_dict()})
        note = {RECIPE: recipe.to_json(), RESULT: values, N_MODELS: str(len(models))}
        with replacing(best_file) as stream:
            note |= {NOTE_CHECKSUM: note_checksum(note), CHECKSUM: _checksum(flat)}
            stream.write(safetensors.torch.save(flat, note))
    content = {
        "recipe": recipe.to_json(),
        "data_digest": data_digest,
        "history": [dataclasses.asdict(result) for result in history],
        "best_epoch": best_epoch,
        "models": list(models),
        "averages": list(averages),
        "optimizers": list(optimizers),
    }
    with replacing(folder / STATE_FILE) as stream:
        torch.save(content, stream)
    for old in folder.glob(best_name("*")):
        if old != best_file:
            old.unlink()


def load(folder: Path, recipe: Recipe, data_digest: str) -> SavedState | None:
    """The checkpoint of a fit of this recipe on this data, or None if there is none.

    Raises Damaged, and RunError if it is another fit's or of another version.
    """
    if not (folder / STATE_FILE).exists():
        return None
    content = _read(folder)
    if not {"models", "averages"} <= content.keys():
        raise RunError(
            f"{folder} holds the state of a fit by another version of maskcls. "
            "Remove the folder to begin again, or name another."
        )
    if Recipe.from_json(content["recipe"]) != recipe or content["data_digest"] != data_digest:
        other = "on other data" if content["data_digest"] != data_digest else "of another recipe"
        raise RunError(f"{folder} holds the state of a fit {other}. Remove the folder to begin again, or name another.")
    with STATE.reading(folder / STATE_FILE):
        best, log_probs = _read_best(folder, content["best_epoch"], len(content["models"]))
        saved = SavedState(
            history=_history(content),
            best_epoch=content["best_epoch"],
            best=best,
            best_log_probs=log_probs,
            models=content["models"],
            averages=content["averages"],
            optimizers=content["optimizers"],
        )
        for state in (*saved.models, *saved.averages):
            _check_finite(state)
    return saved


def begin_again(folder: Path, error: Damaged) -> str:
    """Set aside a checkpoint that is damaged, so that its fit begins again; return a line that says so."""
    aside = [set_aside(file) for name in (STATE_FILE, best_name("*")) for file in sorted(folder.glob(name))]
    there = first([file.name for file in aside], 3)
    return f"begun again, because its checkpoint was damaged (set aside as {there}): {error}"


def load_best(folder: Path) -> tuple[Recipe, EpochResult, list[dict[str, Tensor]]]:
    """Recipe, result and trainable states of the best epoch in the folder, without building its models.

    Raises Damaged, or Missing if no epoch is finished.
    """
    if not (folder / STATE_FILE).exists():
        return _load_weights_alone(folder)
    content = _read(folder)
    with STATE.reading(folder / STATE_FILE):
        return _best_of(folder, content)


def best_predictions(folder: Path) -> tuple[EpochResult, NDArray[np.float64]] | None:
    """The best epoch's result, and the log probabilities (n, 18) that it gave its n validation photos.

    Without reading the weights. None where no file has both, as without validation photos, in checkpoints of earlier
    versions, and where a kill left two files. Raises Damaged.
    """
    file = weights_alone(folder)
    if file is None:
        return None
    with BEST.opened(file):
        try:
            with safe_open(file, "np") as stored:
                found = stored.get_tensor(PREDICTED) if PREDICTED in stored.keys() else None  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise BEST.error(file, str(error)) from error
    if found is None:
        return None
    _, result, _ = _note_in(file)
    with BEST.reading(file):
        sums = np.exp(found).sum(axis=1)
        if not (np.abs(sums - 1) < SUM_TOLERANCE).all():
            raise ValueError("the probabilities of a photo do not add up to one")
    return result, found


def _best_of(folder: Path, content: dict[str, Any]) -> tuple[Recipe, EpochResult, list[dict[str, Tensor]]]:
    # A fit that still runs may have found a better epoch, and removed this one's file, since `state.pt` was read.
    while not (folder / best_name(content["best_epoch"])).exists():
        again = _read(folder)
        if again["best_epoch"] == content["best_epoch"]:
            break
        content = again
    best, _ = _read_best(folder, content["best_epoch"], len(content["models"]))
    return Recipe.from_json(content["recipe"]), _history(content)[content["best_epoch"] - 1], best


def _load_weights_alone(folder: Path) -> tuple[Recipe, EpochResult, list[dict[str, Tensor]]]:
    """Read the best epoch of a fit that needs no state any more."""
    there, file = sorted(folder.glob(best_name("*"))), weights_alone(folder)
    if not there:
        raise Missing(f"{folder} holds no finished epoch.")
    if file is None:
        raise BEST.error(there[0], f"it does not say of which recipe and epoch it is, and {STATE_FILE} is gone")
    recipe, result, n_models = _note_in(file)
    with BEST.reading(file):
        return recipe, result, _read_states(file, n_models)[0]


def _note_in(file: Path) -> tuple[Recipe, EpochResult, int]:
    """What weights say of themselves: recipe, result, and how many models there are. Raises Damaged."""
    note = note_of(file)
    if note.get(NOTE_CHECKSUM) != note_checksum(note):
        raise BEST.error(file, "what it says of its recipe and result has another checksum")
    with BEST.reading(file):
        values = json.loads(note[RESULT])
        result = EpochResult(**{**values, "scores": Scores.from_dict(values["scores"])})
        return Recipe.from_json(note[RECIPE]), result, int(note[N_MODELS])


def _read(folder: Path) -> dict[str, Any]:
    file = folder / STATE_FILE
    with STATE.opened(file) as stream:
        try:
            damaged = zipfile.ZipFile(stream).testzip()
            if damaged is not None:
                raise STATE.error(file, f"its record {damaged!r} has another checksum")
            stream.seek(0)
            content: dict[str, Any] = torch.load(stream, map_location="cpu", weights_only=True)
        except Damaged:
            raise
        except Exception as error:  # zipfile and torch raise whatever a damaged file makes them do
            if is_out_of_memory(error):
                raise  # the file may be whole
            raise STATE.error(file, str(error)) from error
    if not isinstance(content, dict):
        raise STATE.error(file, f"it holds {type(content).__name__}")
    return content


_States = tuple[list[dict[str, Tensor]], NDArray[np.float64] | None]
"""Trainable tensors of each model, and log probabilities (n, 18) for the validation photos, if the file has them."""


def _read_best(folder: Path, epoch: int, n_models: int) -> _States:
    return _read_states(folder / best_name(epoch), n_models)


def _read_states(file: Path, n_models: int) -> _States:
    with BEST.opened(file):
        try:
            flat = load_file(file)
            with safe_open(file, "pt") as stream:
                noted = (stream.metadata() or {}).get(CHECKSUM)
        except (OSError, SafetensorError) as error:
            raise BEST.error(file, str(error)) from error
    if noted not in (None, _checksum(flat)):
        raise BEST.error(file, "its checksum is another one than its weights'")
    predicted = flat.pop(PREDICTED, None)
    with BEST.reading(file):
        _check_finite(flat)
        if predicted is not None and predicted.isnan().any():  # minus infinity is the logarithm of 0
            raise ValueError(f"{PREDICTED} has values that are not numbers")
    states: list[dict[str, Tensor]] = [{} for _ in range(n_models)]
    for key, tensor in flat.items():
        number, _, name = key.partition(":")  # as in `0:heads.mask3.1.weight`
        states[int(number)][name] = tensor
    return states, None if predicted is None else predicted.numpy()


def _checksum(flat: Mapping[str, Tensor]) -> str:
    """8 hexadecimal digits over names, types, shapes and values."""
    found = 0
    for name, tensor in sorted(flat.items()):
        found = crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(), found)
        found = crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _check_finite(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a tensor is not finite."""
    name = not_finite(state)
    if name:
        raise ValueError(f"{name} is not finite")


def _history(content: dict[str, Any]) -> list[EpochResult]:
    return [EpochResult(**{**result, "scores": Scores(**result["scores"])}) for result in content["history"]]
