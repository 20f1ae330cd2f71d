"""The token that this process may show to a Ray cluster, from where Ray itself looks for it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

MODE_VARIABLE = "RAY_AUTH_MODE"
_TOKEN_VARIABLE, _PATH_VARIABLE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True)
class Token:
    """A token, and where it was found."""

    text: str = field(repr=False)
    place: str


def find_token() -> Token | None:
    """Return the token by Ray's own order: RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if text := _cleaned(os.environ.get(_TOKEN_VARIABLE, "")):
        return Token(text, _TOKEN_VARIABLE)
    file = token_file()
    with suppress(OSError, UnicodeDecodeError):
        if text := _cleaned(file.read_text()):
            return Token(text, str(file))
    return None


def token_file() -> Path:
    """Return the file in which Ray looks for the token, where RAY_AUTH_TOKEN does not hold it."""
    stated = os.environ.get(_PATH_VARIABLE)
    return Path(stated) if stated else Path(os.environ.get("HOME", "")) / ".ray" / "auth_token"


def _cleaned(text: str) -> str:
    """The token without white space around it; "" for what cannot be one, because no message could carry it."""
    found = text.strip()
    return found if found.isascii() and found.isprintable() else ""


def shows_token() -> bool:
    """Whether this process shows a token to Ray: Ray itself says so in the environment, also where it was started."""
    return os.environ.get(MODE_VARIABLE, "").lower() == "token"
