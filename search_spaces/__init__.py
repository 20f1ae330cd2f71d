"""What may vary in a search: pure declarations, with neither torch nor Ray nor Optuna behind them.

A space is a function that draws a recipe's overrides from something with Optuna's `suggest_*` methods, so that a
parameter may depend on another. Two rules keep every trial of a study comparable:

- A parameter is named like the recipe key that it sets, wherever there is one; `--set key=value` pins it by that name.
- A name keeps one distribution in all trials of a study, however the trial branched before.

`members.<member>.<key>` is a recipe key, too: that member's own value. A space draws it only where the split has that
member.

A trial of another space, or the preset, is known to a space if its recipe is one that the space draws. Parameters named
like recipe keys are found in the recipe; for any other, the space says with `from_recipe` which value it had.

A user's own space is a Python file that defines `SPACE = Space(...)`; `get` takes its path.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TypeVar

NAMES = ("backbones", "freezing", "task_split", "augmentation", "imbalance", "everything")
_DRAWS = 500

Defined = TypeVar("Defined")


class SpaceError(ValueError):
    """A space cannot be found or cannot be used; the message says which, why, and what to do."""


class Suggest(Protocol):
    """The part of Optuna's trial that a space may use. The upper end of every range is included."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True)
class Choices:
    """The values that a categorical parameter may have."""

    values: tuple[Any, ...]

    def draw(self, generator: random.Random) -> Any:
        """Draw one of the values, each as likely as any other."""
        return generator.choice(self.values)

    def ask(self, trial: Suggest, name: str) -> Any:
        """Return what the trial suggests."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Floats:
    """A range of real numbers, both ends included; `log`: a trial searches it by the logarithm."""

    low: float
    high: float
    log: bool = False

    def draw(self, generator: random.Random) -> float:
        """Draw a number of the range, uniformly, even if `log` is set."""
        return generator.uniform(self.low, self.high)

    def ask(self, trial: Suggest, name: str) -> float:
        """Return what the trial suggests."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Integers:
    """A range of whole numbers, both ends included."""

    low: int
    high: int

    def draw(self, generator: random.Random) -> int:
        """Draw a number of the range, each as likely as any other."""
        return generator.randint(self.low, self.high)

    def ask(self, trial: Suggest, name: str) -> int:
        """Return what the trial suggests."""
        return trial.suggest_int(name, self.low, self.high)


Domain = Choices | Floats | Integers


class Suggester:
    """Base of what answers a space's questions: all of them come to one method, `answer`."""

    def answer(self, name: str, domain: Domain) -> Any:
        """Return the value of a parameter."""
        raise NotImplementedError

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.answer(name, Choices(tuple(choices)))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self.answer(name, Floats(low, high, log)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.answer(name, Integers(low, high)))


@dataclass(frozen=True)
class Setting:
    """Where a search runs: the scale, which backbones have weights there, whether weights are trained or random, and
    whether photos can be cut to the face.

    `fixed` holds what `Space.pinned` fixes: for a choice that must go with a value which would be asked for only
    later, or not at all. `ranking` holds backbones, the most promising first, where they were ranked before any was
    trained: points follow it, and what is drawn does not.
    """

    scale: Literal["cpu", "gpu"]
    has_weights: Callable[[str], bool] = lambda backbone: True
    pretrained: bool = True
    finds_faces: bool = True
    fixed: Mapping[str, Any] = field(default_factory=dict, hash=False)
    ranking: tuple[str, ...] = ()

    def ranked(self, backbones: Sequence[str]) -> list[str]:
        """Return the backbones in the order of the ranking, those that are not in it last, as they came."""
        places = {backbone: place for place, backbone in enumerate(self.ranking)}
        return sorted(backbones, key=lambda backbone: places.get(backbone, len(places)))


def _nothing(setting: Setting) -> list[Any]:
    return []


def _no_values(recipe: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Space:
    """A question, and what may vary to answer it.

    Args:
        name: a word.
        question: a sentence, for listings.
        suggest: (trial, setting) -> overrides of a recipe, drawn from the trial.
        points: setting -> parameters of the trials to try first, by the names that `suggest` draws.
        backbones: setting -> every backbone that `suggest` may choose, with or without weights; empty if it chooses
            none.
        from_recipe: (recipe, setting) -> the parameters that are no recipe keys, by name, with which `suggest` makes
            this recipe; without those that no value would make. The recipe comes as its values by key, those of members
            by `members.<member>.<key>`. The reverse of `suggest`, for trials and presets that were not drawn from this
            space; not needed where every parameter is a recipe key.
    """

    name: str
    question: str
    suggest: Callable[[Suggest, Setting], dict[str, Any]]
    points: Callable[[Setting], list[dict[str, Any]]] = field(default=_nothing)
    backbones: Callable[[Setting], Sequence[str]] = field(default=_nothing)
    from_recipe: Callable[[Mapping[str, Any], Setting], Mapping[str, Any]] = field(default=_no_values)

    def left_out(self, setting: Setting) -> list[str]:
        """Return the backbones that this space would try if they had weights here."""
        return [backbone for backbone in self.backbones(setting) if not setting.has_weights(backbone)]

    def parameters(self, setting: Setting) -> tuple[str, ...]:
        """Return the names that `suggest` may draw, found by drawing often. Raises SpaceError where `suggest` fails."""
        draw = _Draw()
        try:
            for _ in range(_DRAWS):
                self.suggest(draw, setting)
        except SpaceError:
            raise
        except Exception as error:
            raise SpaceError(f"Space {self.name} cannot draw a trial: {_where(error)}.") from error
        return tuple(draw.names)

    def pinned(self, values: Mapping[str, Any]) -> Space:
        """Return this space with some values fixed.

        Parameters of these names are not drawn, and what depends on them follows. A value also wins over an override
        of the same name that the space computes. A pinned backbone need not be one of the space's.
        """
        fixed = dict(values)

        def seen(setting: Setting) -> Setting:
            fixing = replace(setting, fixed={**setting.fixed, **fixed})
            return replace(fixing, has_weights=lambda backbone: True) if "backbone" in fixed else fixing

        def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
            overrides = self.suggest(_Pinned(trial, fixed), seen(setting))
            return {key: fixed.get(key, value) for key, value in overrides.items()}

        def points(setting: Setting) -> list[dict[str, Any]]:
            left: list[dict[str, Any]] = []
            for point in self.points(seen(setting)):
                kept = asked(suggest, setting, point)
                left += [kept] if kept and kept not in left else []
            return [point for point in left if not any(point.items() < other.items() for other in left)]

        def from_recipe(recipe: Mapping[str, Any], setting: Setting) -> Mapping[str, Any]:
            return self.from_recipe(recipe, seen(setting))

        backbones = _nothing if "backbone" in fixed else self.backbones
        return replace(self, suggest=suggest, points=points, backbones=backbones, from_recipe=from_recipe)


def names() -> list[str]:
    """Return the names of the spaces that come with the package."""
    return list(NAMES)


def get(name_or_file: str) -> Space:
    """Return the space of that name, or the SPACE that a Python file defines. Raises SpaceError."""
    if name_or_file in NAMES:
        space: Space = importlib.import_module(f"{__name__}.{name_or_file}").SPACE
        return space
    if name_or_file.endswith(".py") or "/" in name_or_file:
        return defined_in(Path(name_or_file), "space", "SPACE", Space, "search_spaces")
    close = get_close_matches(name_or_file, NAMES, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise SpaceError(
        f"There is no space {name_or_file!r}.{meant} Spaces: {', '.join(NAMES)}; or a Python file that defines SPACE."
    )


def asked(
    suggest: Callable[[Suggest, Setting], dict[str, Any]], setting: Setting, point: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the part of a point that `suggest` asks for when it is answered with that point."""
    draw = _Draw(point)
    suggest(draw, setting)
    return {name: value for name, value in point.items() if name in draw.names}


def weighted(backbones: Sequence[str], setting: Setting) -> list[str]:
    """Return those of some backbones that have weights here. Raises SpaceError if none has."""
    there = [backbone for backbone in backbones if setting.has_weights(backbone)]
    if not there:
        raise SpaceError(
            f"None of the space's backbones has weights here: {', '.join(backbones)}. "
            "Put the weights of one into the folder of --weights, or use --weights hub or --weights none."
        )
    return there


def defined_in(file: Path, what: str, name: str, kind: type[Defined], package: str) -> Defined:
    """Return the object called `name` that a user's Python file defines.

    Args:
        what: the object in a word, for messages, as in `space`.
        kind: the class that it must have, which the file imports from `package`.

    Raises SpaceError where there is no such file, where it cannot be loaded, or defines no such object.
    """
    wanted = f"{name} = {kind.__name__}(...)"
    if not file.is_file():
        raise SpaceError(f"There is no {what} file {file}. Expected: a Python file that defines {wanted}.")
    spec = importlib.util.spec_from_file_location(f"{what}_file_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SpaceError(f"{file} is not a Python file: the file of a {what} ends in .py.")
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except SpaceError:
        raise
    except (Exception, SystemExit) as error:
        raise SpaceError(f"The {what} file {file} cannot be loaded: {_where(error)}.") from error
    found = getattr(module, name, None)
    if not isinstance(found, kind):
        got = "it defines none" if found is None else f"got {type(found).__name__}"
        raise SpaceError(f"The {what} file {file} must define {wanted} from {package}, but {got}.")
    return found


def _where(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name} line {frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {error}".rstrip(".")


class _Draw(Suggester):
    """A Suggest that answers some names from a point and draws the others, always the same; it notes all names."""

    def __init__(self, point: Mapping[str, Any] | None = None) -> None:
        self.names: dict[str, None] = {}
        self._point = point or {}
        self._random = random.Random(0)

    def answer(self, name: str, domain: Domain) -> Any:
        drawn = domain.draw(self._random)  # drawn in any case: what is drawn after it must not depend on the point
        self.names[name] = None
        return self._point.get(name, drawn)


class _Pinned(Suggester):
    """A Suggest that answers some names from fixed values, and asks a trial for the others."""

    def __init__(self, trial: Suggest, fixed: Mapping[str, Any]) -> None:
        self._trial = trial
        self._fixed = fixed

    def answer(self, name: str, domain: Domain) -> Any:
        if name not in self._fixed:
            return domain.ask(self._trial, name)
        value = self._fixed[name]
        if isinstance(domain, Choices):
            return value
        kind = int if isinstance(domain, Integers) else float
        if isinstance(value, bool) or not isinstance(value, int | float) or kind(value) != value:
            raise SpaceError(
                f"--set {name} expects {'a whole number' if kind is int else 'a number'}, but got {value!r}."
            )
        return kind(value)
