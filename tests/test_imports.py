"""Imports run one way: tune -> search_spaces, tune -> maskcls; spaces are pure declarations; each rule over every module there is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "maskcls": {"ray", "optuna", "tune", "search_spaces"},
    "search_spaces": {"ray", "optuna", "torch", "timm", "numpy", "maskcls", "tune"},
    "tune": {"tests"},
}
MODULES = [file for package in FORBIDDEN for file in sorted((ROOT / package).rglob("*.py"))]


def imported(file: Path) -> set[str]:
    """Top packages that a module imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_the_packages_are_covered() -> None:
    assert len(MODULES) > 50
    assert {file.relative_to(ROOT).parts[0] for file in MODULES} == set(FORBIDDEN)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    assert imported(file) & FORBIDDEN[package] == set()


def test_albumentations_is_imported_in_one_place() -> None:
    importers = [str(file.relative_to(ROOT)) for file in MODULES if imported(file) & {"albumentations", "albucore"}]
    assert importers == ["maskcls/data/augment.py"]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_modules_and_public_functions_say_what_they_are_for(file: Path) -> None:
    tree = ast.parse(file.read_text())
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []
    assert file.name == "__init__.py" or ast.get_docstring(tree)
