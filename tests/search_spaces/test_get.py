"""Finding a space: by name, or in the user's own file."""

from __future__ import annotations

from pathlib import Path

import pytest

import search_spaces
from search_spaces import Setting, SpaceError
from tests.search_spaces.draws import Fixed

OWN = """
from dataclasses import dataclass
from search_spaces import Space
from search_spaces.freezing import head

@dataclass(frozen=True)
class Bounds:
    low: float = 0.1

def suggest(trial, setting):
    return {"focal_gamma": trial.suggest_float("focal_gamma", Bounds().low, 5.0), **head(trial, setting)}

SPACE = Space("gamma", "Which gamma?", suggest)
"""


def written(folder: Path, text: str) -> str:
    file = folder / "my_space.py"
    file.write_text(text)
    return str(file)


def test_a_file_of_ones_own_is_a_space(tmp_path: Path) -> None:
    space = search_spaces.get(written(tmp_path, OWN))
    assert space.suggest(Fixed(focal_gamma=3.0, head="linear"), Setting("cpu"))["focal_gamma"] == 3.0
    assert space.parameters(Setting("gpu"))[0] == "focal_gamma"
    assert space.points(Setting("cpu")) == space.left_out(Setting("cpu")) == []


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(
        SpaceError,
        match=r"There is no space 'freezin'\. Did you mean freezing\? Spaces: backbones, freezing, task_split, ",
    ):
        search_spaces.get("freezin")
    with pytest.raises(SpaceError, match=r"There is no space 'xyz'\. Spaces: "):
        search_spaces.get("xyz")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        SpaceError, match=r"There is no space file .*gone\.py\. Expected: a Python file that defines SPACE"
    ):
        search_spaces.get(str(tmp_path / "gone.py"))
    with pytest.raises(SpaceError, match="There is no space file"):
        search_spaces.get(f"{tmp_path}/")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "space.txt").write_text("SPACE = 1")
    with pytest.raises(SpaceError, match=r"space\.txt is not a Python file: the file of a space ends in \.py"):
        search_spaces.get(str(tmp_path / "space.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"must define SPACE = Space\(\.\.\.\) from search_spaces, but it defines none"),
        ("SPACE = {}", r"must define SPACE = Space\(\.\.\.\) from search_spaces, but got dict"),
        (
            "x = 1\ny = 1 / 0\n",
            r"my_space\.py cannot be loaded: my_space\.py line 2: ZeroDivisionError: division by zero",
        ),
        ("x = 1\nSPACE = = 2", r"my_space\.py cannot be loaded: line 2: invalid syntax"),
        ("import nowhere_to_be_found", r"line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise SystemExit(3)", r"my_space\.py cannot be loaded: my_space\.py line 1: SystemExit: 3"),
    ],
)
def test_a_file_that_gives_no_space(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        search_spaces.get(written(tmp_path, text))


def test_a_suggest_that_fails_names_its_line(tmp_path: Path) -> None:
    text = "from search_spaces import Space\nSPACE = Space('broken', '?', lambda trial, setting: {}['x'])\n"
    with pytest.raises(SpaceError, match=r"Space broken cannot draw a trial: my_space\.py line 2: KeyError: 'x'"):
        search_spaces.get(written(tmp_path, text)).parameters(Setting("cpu"))
