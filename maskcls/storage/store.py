"""Store: a place in a storage that takes whole files, lists them and gives them back, however often it must try."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from maskcls.errors import OutOfReach
from maskcls.files import replacing
from maskcls.storage.address import OBJECT_STORES, opened

log = logging.getLogger("maskcls")

PATIENCE_S = 600.0
"""How long a storage may be out of reach before the work ends."""
START_S = 3.0
"""How long it may be so before anything was begun."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 30.0
_PART = 16 << 20
"""Bytes that are read at a time."""
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|EXPIRED|ExpiredToken|"
    r"INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION|TokenRefresh|InvalidToken|HTTP status 40[13]|"
    r"invalid_grant|Permission denied|PERMISSION_DENIED|UNAUTHENTICATED|AuthenticationFailed|"
    r"Authorization\w*(Failure|Mismatch)"
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|NoSuchBucket")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Store:
    """A place in a storage. A worker gets it by pickling, and opens the address for itself.

    Names are paths below the place, with slashes. Each method raises OutOfReach where the storage is out of reach for
    `patience_s`; its text says why, and what to do.
    """

    address: str
    place: str = ""
    """Below the address, as in `first/trials/0007`."""
    patience_s: float = PATIENCE_S
    at_start: bool = False
    """Whether nothing was begun yet: nobody waits long for a server that says nothing."""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.address.partition("?")[0].rstrip("/"), self.place)))

    def below(self, place: str) -> Store:
        """The place of a folder in this one."""
        return replace(self, place="/".join(filter(None, (self.place, place))))

    def trying(self, patience_s: float, *, at_start: bool = False) -> Store:
        """The same place with another patience."""
        return replace(self, patience_s=patience_s, at_start=at_start)

    def put(self, name: str, content: Any) -> None:
        """Put an object, whole, in the place of what was there.

        Args:
            content: bytes, or a buffer of pyarrow.
        """

        def do(system: Any, path: str) -> None:
            if system.type_name in OBJECT_STORES:
                _write(system, path, content)
                return
            parent, _, last = path.rpartition("/")
            passing = f"{parent}/.{last}.{secrets.token_hex(4)}.tmp"  # another machine may put the same object
            system.create_dir(parent, recursive=True)
            _write(system, passing, content)
            system.move(passing, path)

        self._try(name, do)

    def put_json(self, name: str, content: object) -> None:
        """Put an object that holds JSON."""
        self.put(name, json.dumps(content).encode())

    def read(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""

        def do(system: Any, path: str) -> bytes | None:
            try:
                with system.open_input_file(path) as stream:
                    content: bytes = stream.read_at(stream.size(), 0)
                    return content
            except FileNotFoundError:
                return None

        return self._try(name, do)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the JSON object of an object; empty if there is none, or it is damaged."""
        try:
            content = json.loads(self.read(name) or b"{}")
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def fetch(self, name: str, file: Path) -> None:
        """Bring an object into a file, whole. Raises FileNotFoundError if there is none."""

        def do(system: Any, path: str) -> None:
            with system.open_input_file(path) as stream, replacing(file, wait=False) as target:
                for start in range(0, stream.size(), _PART):
                    target.write(stream.read_at(min(_PART, stream.size() - start), start))

        file.parent.mkdir(parents=True, exist_ok=True)
        self._try(name, do)

    def sizes(self, *, deep: bool = True) -> dict[str, int]:
        """Return the objects here by name, and how many bytes each has; `deep` as of `listed`."""
        return {name: size for name, (size, _) in self.listed(deep=deep).items()}

    def listed(self, *, deep: bool = True) -> dict[str, tuple[int, int]]:
        """Return the objects here by name: how many bytes each has, and when it was put, in ns since 1970.

        Args:
            deep: those of folders below as well.
        """

        def do(system: Any, path: str) -> dict[str, tuple[int, int]]:
            from pyarrow.fs import FileSelector, FileType

            found = system.get_file_info(FileSelector(path, recursive=deep, allow_not_found=True))
            names = {one.path.removeprefix(f"{path}/"): one for one in found if one.type == FileType.File}
            return {name: (one.size, one.mtime_ns) for name, one in names.items() if _is_name(name)}

        return self._try("", do)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""

        def do(system: Any, path: str) -> None:
            try:
                system.delete_file(path)
            except FileNotFoundError:
                return

        self._try(name, do)

    def _try(self, name: str, do: Callable[[Any, str], _T]) -> _T:
        """Do it as often as it fails, within the patience.

        Args:
            do: given pyarrow's file system and the object's path in it.
        """
        began, wait_s = time.monotonic(), _FIRST_WAIT_S
        while True:
            try:
                system, base = opened(self.address, at_start=self.at_start)
                return do(system, "/".join(filter(None, (base, self.place, name))))
            except FileNotFoundError:
                raise
            except OSError as error:
                left_s = self.patience_s - (time.monotonic() - began)
                if left_s <= 0:
                    raise OutOfReach(self._explained(error)) from None
                if wait_s >= 1:
                    log.warning("%s It is tried again for %.0f s.", self._explained(error), left_s)
                time.sleep(min(wait_s, left_s))
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _explained(self, error: OSError) -> str:
        said = " ".join(str(error).split())
        why, what = re.sub(r"\s*\(Request ID.*", "", said)[:300].rstrip("."), f"The storage {self}"
        if _NO_BUCKET.search(said):
            return f"{what}: there is no such bucket ({why}). Make it, or name another with --storage."
        if _REFUSED.search(said):
            return (
                f"{what} refuses this machine's credentials, or they have expired ({why}). Renew them where they come "
                "from: the environment (AWS_ACCESS_KEY_ID and the like), a profile, or the machine's role."
            )
        return f"{what} is out of reach ({why}). Check the address, and this machine's network."


def _write(system: Any, path: str, content: Any) -> None:
    stream = system.open_output_stream(path)
    stream.write(content)
    stream.close()


def _is_name(name: str) -> bool:
    """Whether a name leads to a file below a folder, and to one that is whole."""
    parts = PurePosixPath(name).parts
    return ".." not in parts and not name.startswith("/") and not parts[-1].startswith(".")
