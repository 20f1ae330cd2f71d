"""Phrases of messages: what stands where nothing is left over, one thing is, and many are."""

from __future__ import annotations

import ast
import shlex
import sys
from pathlib import Path

import pytest

from maskcls import text

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("n", "shown"), [(0, ""), (1, "a"), (2, "a, b"), (3, "a, b and 1 more"), (1202, "a, b and 1,200 more")]
)
def test_names_beyond_the_limit_are_counted(n: int, shown: str) -> None:
    assert text.first(["a", "b", *["c"] * 1200][:n], 2) == shown


def test_lines_beyond_the_limit_are_counted() -> None:
    assert text.first_lines(["a", "b", "c"], 2) == ["  a", "  b", "  … and 1 more."]
    assert text.first_lines(["a", "b"], 2) == ["  a", "  b"]


def test_a_count_has_the_word_in_its_number() -> None:
    assert [text.counted(n, "photo") for n in (0, 1, 1200)] == ["0 photos", "1 photo", "1,200 photos"]
    assert text.counted(2, "person", "people") == "2 people"


def test_the_nearest_name_is_asked_for() -> None:
    assert text.meant("imagesize", ["epochs", "image_size"]) == "Did you mean image_size?"
    assert text.meant("xyz", ["epochs", "image_size"]) == ""


def test_a_command_can_be_copied_whatever_is_in_its_words() -> None:
    words = ["--resume", Path("/my runs/it's first"), "--trials", 3, "$HOME"]
    command = text.command("tune.search", *words)
    assert shlex.split(command) == ["python", "-m", "tune.search", *map(str, words)]
    assert text.command("tune.search", "--out", "DIR") == "python -m tune.search --out DIR"


def test_a_command_is_spelled_as_the_one_that_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/env/bin/maskcls", "train"])
    assert text.predict_command(Path("a b")) == "maskcls predict --bundle 'a b' --images DIR --out submission.csv"


def test_no_command_with_a_value_in_it_is_written_by_hand() -> None:
    """It would not be quoted."""

    def by_hand(tree: ast.Module) -> list[str]:
        texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        # The values of an f-string are nodes of their own; its constant parts are the text.
        shown = ("".join(map(_shown, node.values)) for node in texts)
        return [line for line in shown if "python -m" in line and "{}" in line.partition("python -m")[2]]

    assert by_hand(ast.parse("f'go on: python -m tune.search --resume {path}.'"))
    files = [file for package in ("maskcls", "tune") for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    assert [f"{file}: {line}" for file in files for line in by_hand(ast.parse(file.read_text()))] == []


def _shown(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "{}"
