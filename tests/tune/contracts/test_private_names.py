"""Private names of Ray and Optuna are used in one module each; all others keep to what these packages publish."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
ALLOWED = {
    "tune/search/actors.py": "ray",
    "tune/runs/local_ray/loopback.py": "ray",
    "tune/runs/joined_ray/ray_private.py": "ray",
    "tune/runs/optuna_private.py": "optuna",
}
PUBLIC = {"_exit"}  # os._exit is documented
MODULES = sorted((ROOT / "tune").rglob("*.py"))


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def read_of_others(tree: ast.AST) -> Iterator[str]:
    """Private attributes of anything but self and cls, and private names that are imported from Ray or Optuna."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                names = f"{module}.{alias.name}".strip(".").split(".")
                if names[0] in ALLOWED.values() and any(map(private, names)):
                    yield ".".join(names)


def own_names(source: type) -> set[str]:
    """Private names of a class's instances: its methods, and attributes of self or of another instance of itself."""
    text = inspect.getsource(source)
    tree = ast.parse(inspect.cleandoc("if True:\n" + text) if text[0].isspace() else text)
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    names |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    return set(filter(private, names))


def heirs(module: ModuleType) -> Iterator[type]:
    """Classes of a module that are derived from one of Ray's or Optuna's."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and any(map(foreign, value.__mro__)):
            yield value


def foreign(source: type) -> bool:
    return source.__module__.partition(".")[0] in ALLOWED.values()


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_private_name_of_another_object_is_used(file: Path) -> None:
    found = set(read_of_others(ast.parse(file.read_text())))
    assert bool(found) == (str(file.relative_to(ROOT)) in ALLOWED), found


def test_no_class_uses_or_replaces_a_private_name_of_its_base_in_ray_or_optuna() -> None:
    found: dict[str, set[str]] = {}
    seen = []
    for file in MODULES:
        text = file.read_text()
        if file.name == "__init__.py" or not any(
            f"from {package}" in text or f"import {package}" in text for package in ALLOWED.values()
        ):
            continue
        for heir in heirs(importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))):
            seen.append(heir.__name__)
            of_bases = set[str]().union(*(own_names(base) for base in heir.__mro__ if foreign(base)))
            if common := own_names(heir) & of_bases:
                found[heir.__name__] = common
    assert {"StudySearch", "EpochASHA", "EpochMedian", "Progress", "_Stop", "_RunJournal"} <= set(seen)
    assert found == {"FilteredStudy": {"_get_trials"}}


@pytest.mark.parametrize("file", ALLOWED)
def test_each_use_names_the_test_that_holds_it(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    tests = {path: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            said = ast.get_docstring(node) or ""
            assert "Why: " in said, node.name
            held_by = [word.strip(",.") for word in said.partition("Held by:")[2].split() if word.startswith("test_")]
            assert held_by, node.name
            assert all(any(f"def {name}(" in text for text in tests.values()) for name in held_by), held_by
