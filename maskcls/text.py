"""Phrases of messages and reports: lists that end in "and 5 more", counts, the nearest of some names, names that a
terminal can't show, and commands to copy.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

# Control characters (C0, C1), which move a terminal's cursor or worse; marks that turn the direction of what follows,
# so that another text is read than stands there; separators of lines and paragraphs; bytes that are not UTF-8.
_NOT_SHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NOT_PRINTABLE = re.compile(_NOT_SHOWN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def shown(name: object) -> str:
    """Return a name or path for people, in one line: whatever could act on a terminal, or is not UTF-8, is escaped.

    Python has such a byte as a lone surrogate: `\\udcb1` is shown as `\\xb1`.
    """
    return _NOT_SHOWN.sub(_escaped, str(name))


def printable(text: str) -> str:
    """Return a text for people, of one line or several: what `shown` escapes is, but for line ends and tabs.

    For texts that may hold names of others' making, on their way to a terminal.
    """
    return _NOT_PRINTABLE.sub(_escaped, text)


def is_utf8(name: str) -> bool:
    """Whether a name can be written in UTF-8: Python has other bytes of a file's name as lone surrogates."""
    return _SURROGATES.search(name) is None


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    code = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def first(names: Sequence[str], limit: int, more: str = "more") -> str:
    """Return the first `limit` names in one line, as in `a, b and 5 more`; `more` may name them: `more people`."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} {more}" if rest > 0 else "")


def first_lines(lines: Sequence[str], limit: int) -> list[str]:
    """Return the first `limit` lines, indented, and then a line that counts the others."""
    rest = len(lines) - limit
    return [f"  {line}" for line in lines[:limit]] + ([f"  … and {rest:,} more."] if rest > 0 else [])


def plural(n: int, one: str, several: str | None = None) -> str:
    """Return the word for n things: `photo` for 1, else `photos`, or `several` if the plural is irregular."""
    return one if n == 1 else several or f"{one}s"


def counted(n: int, one: str, several: str | None = None) -> str:
    """Return the number and its word: `1 photo`, `1,200 photos`."""
    return f"{n:,} {plural(n, one, several)}"


def meant(word: str, names: Iterable[str]) -> str:
    """Return `Did you mean <the nearest name>?`, or an empty string if none is near."""
    close = get_close_matches(word, list(names), n=1)
    return f"Did you mean {close[0]}?" if close else ""


def command(module: str, *words: object) -> str:
    """Return a command line to copy, quoted for the shell: `python -m tune.search --resume 'my runs/first'`.

    In a process that was started as `maskcls search` it is `maskcls search ...`.
    """
    console = Path(sys.argv[0]).name == "maskcls"
    start = ["maskcls", module.rpartition(".")[2]] if console else ["python", "-m", module]
    return shlex.join([*start, *map(str, words)])


def predict_command(bundle: Path) -> str:
    """Return the command that predicts with a bundle, to copy; the folder of photos is left to fill in."""
    return command("maskcls.predict", "--bundle", bundle, "--images", "DIR", "--out", "submission.csv")
