"""Spaces that are Python objects: what a run keeps of them draws the same, or says that it needs the object again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search_spaces import Setting, Space, SpaceError, Suggest, as_file, get
from search_spaces.as_file import behaviour, name_or_file

Function = Callable[[Suggest, Setting], dict[str, Any]]
LOW = 2


def widths(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """How wide?

    It uses a module and a constant.
    """
    return {"head_width": trial.suggest_int("head_width", int(math.pow(LOW, 3)), 64)}


def points(setting: Setting) -> list[dict[str, Any]]:
    return [{"head_width": 16 if setting.scale == "cpu" else 32}]


def steps(trial: Suggest, setting: Setting) -> dict[str, Any]:
    return {"head_width": LOW ** trial.suggest_int("steps", 3, 6)}


def steps_of(recipe: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    return {"steps": int(math.log2(recipe["head_width"]))}


def enclosing(low: int) -> Function:
    def enclosed(trial: Suggest, setting: Setting) -> dict[str, Any]:
        return {"head_width": trial.suggest_int("head_width", low, 64)}

    return enclosed


def from_argument(low: int, trial: Suggest, setting: Setting) -> dict[str, Any]:
    return {"head_width": trial.suggest_int("head_width", low, 64)}


@pytest.mark.parametrize(
    "space",
    [Space("wide", "How wide?", widths), Space("wide", 'How "wide"?', widths, points)],
    ids=["alone", "with points"],
)
def test_the_source_of_plain_functions_is_kept_and_draws_the_same(space: Space, tmp_path: Path) -> None:
    file = Path(name_or_file(space, tmp_path))
    assert file == tmp_path / "wide.py"
    assert "def widths(" in file.read_text()
    assert behaviour(get(str(file))) == behaviour(space)


def test_the_reverse_of_plain_functions_is_kept_as_well(tmp_path: Path) -> None:
    space = get(name_or_file(Space("steps", "How wide?", steps, from_recipe=steps_of), tmp_path))
    assert space.from_recipe({"head_width": 16}, Setting("cpu")) == {"steps": 4}


def test_a_function_is_a_space_of_its_name(tmp_path: Path) -> None:
    space = get(name_or_file(widths, tmp_path))
    assert (space.name, space.question) == ("widths", "How wide?")


@pytest.mark.parametrize("name", ["my space", "a/b", "größe", "../x", "w" * 300])
def test_a_space_may_have_any_name(name: str, tmp_path: Path) -> None:
    file = name_or_file(Space(name, "How wide?", widths), tmp_path)
    assert Path(file).parent == tmp_path
    assert get(file).name == name


@pytest.mark.parametrize(
    "function",
    [
        enclosing(8),
        lambda trial, setting: {"head_width": trial.suggest_int("head_width", 8, 64)},
        partial(from_argument, 8),
    ],
    ids=["enclosed", "lambda", "partial"],
)
def test_where_the_source_does_not_suffice_the_same_object_is_needed_again(
    function: Function, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_file, "_GIVEN", {})
    file = name_or_file(function, tmp_path)
    assert get(file).suggest is function
    as_file._GIVEN.clear()
    with pytest.raises(SpaceError, match=r"^Space \w+ was given as a Python object, whose source .* Pass the same"):
        get(file)


def test_another_object_has_another_file(tmp_path: Path) -> None:
    texts = [Path(name_or_file(enclosing(low), tmp_path)).read_text() for low in (8, 9, 8)]
    assert texts[0] == texts[2] != texts[1]


def test_a_space_that_has_a_name_or_a_file_is_known_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_or_file(get("freezing"), tmp_path) == "freezing"
    (tmp_path / "my_widths.py").write_text(
        "from search_spaces import Space\n"
        "def suggest(trial, setting): return {'head_width': trial.suggest_int('head_width', 8, 64)}\n"
        "SPACE = Space('mine', 'How wide?', suggest)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_widths

    (tmp_path / "made").mkdir()
    assert name_or_file(my_widths.SPACE, tmp_path / "made") == str(tmp_path / "my_widths.py")
    for given in ("freezing", "mine.py", Path("mine.py")):
        assert name_or_file(given, tmp_path) == str(given)
    # Changed since it was imported: the object is what counts.
    (tmp_path / "my_widths.py").write_text((tmp_path / "my_widths.py").read_text().replace("8, 64", "10, 64"))
    assert name_or_file(my_widths.SPACE, tmp_path / "made") == str(tmp_path / "made" / "mine.py")


def test_what_is_no_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"^space expects a space's name, a Python file, a function .*, but got 3\.$"):
        name_or_file(3, tmp_path)  # type: ignore[arg-type]

    def wrong(trial: Suggest, setting: Setting) -> dict[str, Any]:
        raise ZeroDivisionError("division by zero")

    with pytest.raises(SpaceError, match=r"^Space wrong cannot draw a trial: test_as_file\.py line \d+: ZeroDivision"):
        name_or_file(wrong, tmp_path)
