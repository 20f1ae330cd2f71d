"""What options a command has, read from its function, and which of them a call states."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    parameter: str
    """Name in the command's function, as in `set_`."""
    name: str
    """Name on the command line, without the dashes before it, as in `set` or `time-budget`."""
    kind: type
    """Of a value: bool (a flag), int, float, str or Path."""
    is_repeated: bool
    """Whether it may be given again and again, and is a list of values."""
    least: float | None
    most: float | None

    @property
    def is_flag(self) -> bool:
        """Whether it takes no value."""
        return self.kind is bool


def options_of(main: Callable[..., Any]) -> list[Option]:
    """Return the options of a command's function, in their order. What it takes by position is no option."""
    parameters = inspect.signature(main, eval_str=True).parameters.values()
    annotated = [one for one in parameters if get_origin(one.annotation) is Annotated]
    return [_option(one) for one in annotated if not isinstance(get_args(one.annotation)[1], ArgumentInfo)]


def _option(parameter: inspect.Parameter) -> Option:
    annotation, info = get_args(parameter.annotation)
    assert isinstance(info, OptionInfo), f"{parameter.name} is no option"
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    is_repeated = get_origin(annotation) is list
    kind = get_args(annotation)[0] if is_repeated else annotation
    assert kind in (bool, int, float, str, Path), f"{parameter.name} is of a kind that no config file can hold"
    declared = info.default  # within Annotated, typer takes the first name that is declared for the default
    name = declared.removeprefix("--") if isinstance(declared, str) else parameter.name.replace("_", "-")
    return Option(parameter.name, name, kind, is_repeated, info.min, info.max)


def module_of(main: Callable[..., Any]) -> str:
    """Return the name of a command's module as `python -m` takes it, as in `tune.search`."""
    spec = sys.modules[main.__module__].__spec__  # has the name even where the module runs as __main__
    return (spec.name if spec else main.__module__).removesuffix(".__main__")


def stated(context: typer.Context) -> set[str]:
    """Return the parameters that this call states, on the command line or by --config.

    The others have defaults, or come from the environment, where a password is.
    """
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name not in ("DEFAULT", "ENVIRONMENT")}
