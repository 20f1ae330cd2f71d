"""Spaces given as Python objects, turned into what a run keeps: a space's name, or a Python file that defines SPACE.

Where the object's functions can be written as a file that draws the same, the file is their source, and a resume needs
nothing else. Where they cannot (they use variables of an enclosing function, or objects that have no short text), the
file only names the object and what it drew: a resume needs the same object again, and finds out whether it is the same
by what it draws.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import re
import sys
import textwrap
from ast import literal_eval
from collections.abc import Callable, Iterator
from os import PathLike, fspath
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from search_spaces import NAMES, Domain, Setting, Space, SpaceError, Suggest, Suggester, get

SuggestFunction = Callable[[Suggest, Setting], dict[str, Any]]
"""(trial, setting) -> overrides of a recipe."""
_DRAWS = 500
_GIVEN: dict[str, Space] = {}
"""Objects of which no source was kept, by what they draw, for as long as the process lives."""
_FROM_SOURCE = '''"""The space {name}, given as a Python object; this is its source, which draws the same."""

from __future__ import annotations

from search_spaces import Space

{source}

SPACE = Space({arguments})
'''
_FROM_OBJECT = '''"""The space {name}, given as a Python object whose source cannot be kept: a resume needs it again."""

from __future__ import annotations

from search_spaces.as_file import given

SPACE = given({name!r}, {digest!r})
'''


def name_or_file(space: str | PathLike[str] | Space | SuggestFunction, folder: Path) -> str:
    """Return what `search_spaces.get` takes for the same space: its name, or a Python file.

    Args:
        space: a name, a file's path, an object, or the `suggest` function of one, which then has the function's name
            and the first line of its docstring as its question.
        folder: gets the file, if one must be written.

    Raises SpaceError where the object is no space, or cannot draw a trial.
    """
    if isinstance(space, str | PathLike):
        return str(fspath(space))
    if not isinstance(space, Space):
        space = _space_of(space)
    if space.name in NAMES and get(space.name) == space:
        return space.name
    digest = behaviour(space)
    own = _file_of(space)
    if own is not None and _draws_the_same(own, digest):
        return str(own)
    file = folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', space.name)[:60]}.py"  # a name may be any text
    source = _source(space)
    if source is not None:
        file.write_text(source)
        if _draws_the_same(file, digest):
            return str(file)
    _GIVEN[digest] = space
    file.write_text(_FROM_OBJECT.format(name=space.name, digest=digest))
    return str(file)


def given(name: str, digest: str) -> Space:
    """Return the object that was given in this process and drew the same. Raises SpaceError if there is none."""
    try:
        return _GIVEN[digest]
    except KeyError:
        raise SpaceError(
            f"Space {name} was given as a Python object, whose source the run could not keep. Pass the same object "
            f"again, run_search(resume=..., space={name}); no object of this process draws what it drew ({digest})."
        ) from None


def behaviour(space: Space) -> str:
    """Return 12 hex digits that are the same for spaces that draw the same, with and without a GPU.

    Raises SpaceError where the space cannot draw a trial.
    """
    said = [space.name, space.question]
    for setting in (Setting("cpu"), Setting("gpu")):
        space.parameters(setting)  # says in one line what is wrong with `suggest`
        draw = _Noted()
        said += [repr(space.suggest(draw, setting)) for _ in range(_DRAWS)]
        said += [*draw.said, repr(space.points(setting)), repr(list(space.backbones(setting)))]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]


class _Noted(Suggester):
    """Draws, always the same, and notes names, domains and values."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._random = random.Random(0)

    def answer(self, name: str, domain: Domain) -> Any:
        value = domain.draw(self._random)
        self.said.append(f"{name} {domain!r} {value!r}")
        return value


def _space_of(suggest: object) -> Space:
    if not callable(suggest):
        raise SpaceError(
            f"space expects a space's name, a Python file, a function (trial, setting) or a Space, but got {suggest!r}."
        )
    name = getattr(suggest, "__name__", "").strip("_<>") or "space"
    is_described = hasattr(suggest, "__name__")  # another object has only the docstring of its class
    said = (inspect.getdoc(suggest) or "").partition("\n")[0] if is_described else ""
    return Space(name, said or f"What is best of what {name} draws?", suggest)


def _file_of(space: Space) -> Path | None:
    """The file of the module that defines the space as its SPACE; None where there is none.

    It will be run again, so the file of the program itself is none of them.
    """
    name = getattr(space.suggest, "__module__", None)
    module = sys.modules.get(name or "")
    file = getattr(module, "__file__", None)
    if name == "__main__" or getattr(module, "SPACE", None) is not space or not file or not file.endswith(".py"):
        return None
    return Path(file)


def _draws_the_same(file: Path, digest: str) -> bool:
    try:
        return behaviour(get(str(file))) == digest
    except Exception:  # the code of another file may raise anything
        return False


def _source(space: Space) -> str | None:
    """Text of a Python file that defines the space; None where the source of a function is not to be had."""
    arguments = [repr(space.name), repr(space.question)]
    parts: dict[str, None] = {}
    for field in ("suggest", "points", "backbones", "from_recipe"):
        function = getattr(space, field)
        if function == Space.__dataclass_fields__[field].default:
            continue
        if not isinstance(function, FunctionType) or not function.__name__.isidentifier():
            return None
        try:
            text = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError):
            return None
        parts.update(dict.fromkeys([*_globals(function), text.rstrip()]))
        arguments.append(f"{field}={function.__name__}")
    return _FROM_SOURCE.format(name=space.name, source="\n\n".join(parts), arguments=", ".join(arguments))


def _globals(function: FunctionType) -> Iterator[str]:
    """Lines that define the modules and the plain values of a function's module that it uses."""
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            yield f"import {value.__name__} as {name}"
        elif value is not None and _is_plain(value):
            yield f"{name} = {value!r}"


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_plain(value: object) -> bool:
    try:
        return bool(literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False
