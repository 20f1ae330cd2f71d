"""The files of a checkpoint by name, and which of them may go. Without torch, for drivers, which have no need of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from zlib import crc32

from safetensors import SafetensorError, safe_open

from maskcls.errors import Damaged
from maskcls.files import FileKind

REMEDY = "Remove the folder {folder} to begin this fit again."
BEST = FileKind("weights of the best epoch", REMEDY, most_bytes=1 << 44)
STATE_FILE = "state.pt"
"""What a fit needs to go on."""
RECIPE, RESULT, N_MODELS = "recipe", "result", "models"
"""Of the best weights' own note: the recipe and the best epoch's result as JSON, and how many models there are."""

NOTE_CHECKSUM = "note_crc32"
"""Of that note its own checksum."""


def best_name(epoch: int | str) -> str:
    """Return the name of the file that holds an epoch's weights."""
    return f"best-{epoch}.safetensors"


def files_of(folder: Path) -> list[Path]:
    """Return the files of the folder's checkpoint: what an export or a further epoch needs."""
    return [file for file in (folder / STATE_FILE, *sorted(folder.glob(best_name("*")))) if file.exists()]


def is_of_checkpoint(name: str) -> bool:
    """Return whether a file of this name, or path, is one of `files_of`."""
    return Path(name).name == STATE_FILE or fnmatch(Path(name).name, best_name("*"))


def has_weights(folder: Path) -> bool:
    """Return whether the best weights of the folder's fit can be read."""
    return (folder / STATE_FILE).exists() or weights_alone(folder) is not None


def weights_alone(folder: Path) -> Path | None:
    """Return the file of the best weights, if it says itself of which recipe and epoch it is, as older ones do not.

    None as well where a kill left two, of which only the state says which one is meant.
    """
    files = list(folder.glob(best_name("*")))
    return files[0] if len(files) == 1 and note_of(files[0]) else None


def note_of(file: Path) -> dict[str, str]:
    """Return what weights say of themselves, by RECIPE, RESULT and N_MODELS; empty if they say nothing."""
    with suppress(Damaged, OSError, SafetensorError), BEST.opened(file), safe_open(file, "np") as stored:
        note: dict[str, str] = stored.metadata() or {}
        return note if {RECIPE, RESULT, N_MODELS} <= note.keys() else {}
    return {}


def note_checksum(note: Mapping[str, str]) -> str:
    """Return the checksum of what weights say of themselves."""
    return f"{crc32(chr(0).join(note[key] for key in (RECIPE, RESULT, N_MODELS)).encode()):08x}"


def state_to_drop(folder: Path) -> list[Path]:
    """Return what only a fit that goes on needs: nothing where the best weights cannot be read without it."""
    return [folder / STATE_FILE] if (folder / STATE_FILE).exists() and weights_alone(folder) is not None else []
