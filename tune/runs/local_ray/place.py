"""Where a Ray that is started here keeps its files and its token: in folders that only this user can look into.

Ray's own choice is /tmp/ray for all users of a machine, with everybody's right to write there.
"""

from __future__ import annotations

import functools
import os
import secrets
import shlex
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maskcls.errors import RunError
from maskcls.files import private_folder
from maskcls.text import shown

STORE_BYTES = 256 * 2**20
"""Of Ray's store for objects that processes share. A search hands over little there: photos are files."""
_LONGEST_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
_SOCKET_BYTES = 107
"""The longest name that Linux takes for a socket (sun_path of unix(7), without its last 0)."""
_SHARED_MEMORY = Path("/dev/shm")
_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_TEMP_VARIABLES = ("RAY_TMPDIR", "TMPDIR", "TEMP", "TMP")
TOKEN_COMMAND = "ray get-auth-token"


@dataclass(frozen=True)
class Place:
    """Where a Ray that is started here keeps its files."""

    folder: Path
    """Only this user can look into it."""
    token: Path | None
    """The file with the token that Ray's dashboard asks for; None where an environment variable gives the token."""
    has_shared_memory: bool
    """Whether the store for objects fits into /dev/shm."""

    @property
    def temp(self) -> Path:
        """Ray's folder; in it session_latest leads to the files of the latest start."""
        return self.folder / "ray"

    @property
    def settings(self) -> dict[str, object]:
        """The arguments of `ray.init` that it comes to."""
        slow = {} if self.has_shared_memory else {"_plasma_directory": str(self.folder)}
        return {"_temp_dir": str(self.temp), "object_store_memory": STORE_BYTES, **slow}

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for Ray's processes."""
        return {} if self.token in (None, _default_token()) else {"RAY_AUTH_TOKEN_PATH": str(self.token)}


def find_place() -> Place:
    """Find folders that Ray can use, and make them and the token. Raises RunError, with what to do, if none is."""
    folder = _private_folder()
    has_room = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > STORE_BYTES
    return Place(folder, _make_token(folder), has_room)


def temp_folder() -> Path:
    """Where the files lie of a Ray that this process starts, or has started. Raises RunError as `find_place`."""
    return _private_folder() / "ray"


def token_command() -> str:
    """The command that prints the token, to copy."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return shlex.join(("cat", path)) if path else TOKEN_COMMAND


def _candidates() -> list[Path]:
    """Folders for this user that are short enough, in the order in which they are tried."""
    bases = [os.environ.get(name, "") for name in _TEMP_VARIABLES]
    named = [Path(base) / f"maskcls-{os.getuid()}" for base in (*bases, *_FOLDERS) if base]
    fitting = [folder for folder in named if folder.is_absolute() and _socket_bytes(folder) <= _SOCKET_BYTES]
    return list(dict.fromkeys(fitting))


def _socket_bytes(folder: Path) -> int:
    return len(os.fsencode(f"{folder}{_LONGEST_SOCKET}"))


def _private_folder() -> Path:
    return _chosen(tuple(_candidates()))


@functools.cache  # one that stands beside somebody else's has another name each time
def _chosen(candidates: tuple[Path, ...]) -> Path:
    problems = []
    for folder in candidates:
        try:
            return private_folder(folder)
        except OSError as error:
            problems.append(f"{shown(folder.parent)}: {error.strerror or error}")
    raise RunError(
        f"Ray finds no folder for its files and sockets ({'; '.join(problems)}). Name one with RAY_TMPDIR that you may "
        f"write, on this machine's own disk, of at most {_SOCKET_BYTES - _socket_bytes(Path('/maskcls-4294967294'))} "
        "bytes."
    )


def _default_token() -> Path:
    """Where Ray looks for its token by itself."""
    return Path(os.environ.get("HOME", "")) / ".ray" / "auth_token"


def _make_token(folder: Path) -> Path | None:
    """Make the token's file, which only this user can read: where Ray looks for it, or in `folder` without a home.

    Ray itself would write it for all to read.
    """
    if any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return None
    tokens = [folder / "auth_token"] if not os.environ.get("HOME") else [_default_token(), folder / "auth_token"]
    for token in tokens:
        with suppress(OSError):
            token.parent.mkdir(mode=0o700, parents=False, exist_ok=True)
            with suppress(FileExistsError):
                _write_new(token, secrets.token_hex(32))
            if token.stat().st_uid == os.getuid():
                token.chmod(0o600)
            token.read_bytes()
            return token
    raise RunError(f"The token of Ray cannot be written in {shown(folder)}. Name another folder with RAY_TMPDIR.")


def _write_new(file: Path, text: str) -> None:
    """Write a file for this user alone. Raises FileExistsError if it is there."""
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as stream:
        stream.write(text)
