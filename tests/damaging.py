"""Files damaged in every way that a disk, a person or another program damages them, for tests of what reads them."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from maskcls.cli import disk_message
from maskcls.errors import MaskclsError

SECONDS = 30
"""After which a reader hangs."""
DEEP = 100_000
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 19, 10**9, 10**18, 10**30, -(10**30), 0.5, -0.0, 1e300, -1e300),
    *("", "x", "0", "1e9", "../..", "\0", "\ud800", "nan", "x" * 5000, [], [1], ["a", None], {}, {"a": 1}, [[]], [{}]),
    *(float("nan"), float("inf"), "none", "complete", "single", [0.1] * 3),
)
"""Values of every type, one of which takes the place of a field's."""
TEXTS = (
    *("", "null", "true", "3", '"text"', "[]", "{}", "NaN", "1e999", "9" * 5000, "[" * DEEP, '{"a":' * DEEP, "\0" * 99),
    *(
        "[" * 60 + "]" * 60,
        '{"format": 99}',
        '{"format": "1"}',
        "key,person\n1",
        "\ufeff{}",
        "{} {}",
        "a\rb",
        '"',
        "\n\n",
    ),
)
"""What may stand in place of a whole file."""


def _cut(file: Path, rng: random.Random) -> None:
    os.truncate(file, rng.randrange(file.stat().st_size + 1))


def _flip(file: Path, rng: random.Random) -> None:
    _change(file, rng, lambda content, place: content.__setitem__(place, content[place] ^ 1 << rng.randrange(8)))


def _zeros(file: Path, rng: random.Random) -> None:
    n = rng.choice((1, 16, 512))
    _change(file, rng, lambda content, place: content.__setitem__(slice(place, place + n), bytes(n)))


def _noise(file: Path, rng: random.Random) -> None:
    n = rng.choice((1, 4, 64))
    _change(file, rng, lambda content, place: content.__setitem__(slice(place, place + n), rng.randbytes(n)))


def _twice(file: Path, rng: random.Random) -> None:
    _change(file, rng, lambda content, place: content.extend(content[place:]))


def _change(file: Path, rng: random.Random, change: Callable[[bytearray, int], None]) -> None:
    content = bytearray(file.read_bytes())
    if content:
        change(content, rng.randrange(len(content)))
    file.write_bytes(content)


def _text(file: Path, rng: random.Random) -> None:
    file.write_text(rng.choice(TEXTS))


def _missing(file: Path, rng: random.Random) -> None:
    file.unlink()


def _pipe(file: Path, rng: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _link(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.symlink_to(rng.choice(("/dev/zero", "/dev/null", file.name, "/nowhere", ".")))


def _huge(file: Path, rng: random.Random) -> None:
    os.truncate(file, 1 << 43)  # a hole, which takes no room on the disk


def _field(file: Path, rng: random.Random) -> None:
    """Another value in one field of a JSON file, of one line of JSON lines, or of one cell of a table."""
    text = file.read_text(errors="replace")
    if file.suffix == ".csv":
        rows = [line.split(",") for line in text.splitlines()]
        cells = rng.choice(rows) if rows else [""]
        cells[rng.randrange(len(cells))] = str(rng.choice(VALUES)).encode(errors="replace").decode()
        file.write_text("\n".join(map(",".join, rows)) + "\n")
        return
    lines = text.splitlines() if file.suffix in (".jsonl", ".journal") else [text]
    try:
        number = rng.randrange(len(lines))
        content = json.loads(lines[number])
    except ValueError:  # text, or weights
        _flip(file, rng)
        return
    lines[number] = json.dumps(_with_another_value(content, rng))
    file.write_text("\n".join(lines) + "\n")


def _with_another_value(content: Any, rng: random.Random) -> Any:
    places = list(_places(content))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, dict | list):
        for key in list(content) if isinstance(content, dict) else range(len(content)):
            yield content, key
            yield from _places(content[key])


DAMAGES: Mapping[str, Callable[[Path, random.Random], None]] = {
    "cut short": _cut,
    "a bit flipped": _flip,
    "zeros": _zeros,
    "noise": _noise,
    "a part twice": _twice,
    "another text": _text,
    "missing": _missing,
    "a named pipe": _pipe,
    "a folder": _folder,
    "a link": _link,
    "huge": _huge,
    "another value": _field,
    "yet another value": _field,  # as often as two others: it comes past every check of the form
}
DAMAGE = st.tuples(st.sampled_from(sorted(DAMAGES)), st.integers(0, 2**32 - 1))
"""How a file is damaged, and the seed of where."""


def damage(file: Path, how: tuple[str, int]) -> None:
    """Damage the file; equal calls do the same to equal files."""
    name, seed = how
    DAMAGES[name](file, random.Random(seed))


@contextmanager
def refused_or_done() -> Iterator[None]:
    """Fail where the block ends in another error than a message, or hangs."""

    def hangs(number: int, frame: object) -> None:
        raise TimeoutError("It hangs.")

    said: list[str] = []
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    except MaskclsError as error:
        said.append(str(error))
    except OSError as error:
        if not (message := disk_message(error)):
            raise
        said.append(message)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    for message in said:
        assert 0 < len(message.strip()) < 5000, "a message, and not the damaged file"
