"""Imports run one way, between packages and between the folders of a package. Each rule is checked on every module."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "maskcls": {"ray", "optuna", "tune", "search_spaces"},
    "search_spaces": {"ray", "optuna", "torch", "timm", "numpy", "maskcls", "tune"},
    "tune": {"tests"},
}
BELOW = {
    "maskcls/command_line": (),
    "maskcls/stores": (),
    "maskcls/storage": ("stores",),
    "maskcls/data": ("stores",),
    "maskcls/models": ("stores", "data"),
    "maskcls/training": ("stores", "data", "models"),
    "maskcls/serving": ("stores", "data", "models", "training"),
    "maskcls/reports": ("data",),
    "tune/statistics": (),
    "tune/runs": ("statistics",),
    "tune/fitting": ("statistics", "runs"),
    "tune/compare": ("statistics", "runs", "fitting"),
    "tune/selection": ("statistics", "runs", "fitting"),
    "tune/audit": ("statistics", "runs", "fitting", "selection"),
    "tune/report": ("statistics", "runs", "fitting", "selection"),
    "tune/upkeep": ("statistics", "runs", "fitting", "selection"),
    "tune/predicting": ("statistics", "runs"),
    "tune/serving": (),
    "tune/search": ("statistics", "runs", "fitting", "upkeep", "selection", "report"),
    "tune/dashboard": ("statistics", "runs", "fitting", "selection", "report", "search"),
    "tune/api": ("statistics", "runs", "fitting", "selection", "report", "search"),
}
"""For each folder, the other folders of its package that it may import from.

Modules beside the folders are either the ground floor, which imports no folder and may be imported by all, or stand
above them, as commands do: no folder imports those.
"""
EXCEPTIONS: set[tuple[str, str]] = set()
"""Modules that still import what they must not: (module, folder or module imported). Entries may go, none may come."""
MODULES = [file for package in FORBIDDEN for file in sorted((ROOT / package).rglob("*.py"))]


@cache
def imported(file: Path) -> set[str]:
    """Top packages that a module imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@cache
def imported_within(file: Path) -> set[str]:
    """What a module imports of its own package: the names of folders, and of modules beside the folders."""
    package = file.relative_to(ROOT).parts[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports are not followed here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith(f"{package}.")}


@cache
def folders(package: str) -> set[str]:
    """The folders of a package that hold modules."""
    return {path.name for path in (ROOT / package).iterdir() if any(path.glob("*.py"))}


def is_ground_floor(package: str, module: str) -> bool:
    """Whether a module beside the folders imports no folder, itself or through others beside it."""
    within = imported_within(ROOT / package / f"{module}.py")
    beside = {name for name in within - folders(package) if (ROOT / package / f"{name}.py").exists()}
    return not within & folders(package) and all(is_ground_floor(package, name) for name in beside - {module})


def forbidden_imports(folder: str) -> set[tuple[str, str]]:
    """Imports of a folder's modules from above, or from beside: (module, folder or module imported)."""
    package, own = folder.split("/")
    return {
        (file.relative_to(ROOT).as_posix(), name)
        for file in (ROOT / folder).rglob("*.py")
        for name in imported_within(file) - {own, *BELOW[folder]}
        if name in folders(package) or not is_ground_floor(package, name)
    }


def test_the_packages_are_covered() -> None:
    assert len(MODULES) > 50
    assert {file.relative_to(ROOT).parts[0] for file in MODULES} == set(FORBIDDEN)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    assert imported(file) & FORBIDDEN[package] == set()


def test_modules_above_are_named_by_string_in_three_places() -> None:
    """An import by string is one as well: `maskcls/__main__.py` lists all commands, train has an old spelling, and
    predict an option that needs Ray.
    """

    def names_modules_above(file: Path) -> bool:
        above = re.compile(rf"({'|'.join(FORBIDDEN['maskcls'])})(\.\w+)+(:\w+)?")
        texts = (node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
        return any(isinstance(text, str) and above.fullmatch(text) for text in texts)

    below = [file for file in MODULES if file.is_relative_to(ROOT / "maskcls")]
    assert {file.name for file in below if names_modules_above(file)} == {"__main__.py", "train.py", "predict.py"}


def test_every_folder_has_a_floor() -> None:
    assert set(BELOW) == {f"{package}/{folder}" for package in FORBIDDEN for folder in folders(package)}
    assert all(set(below) <= folders(folder.split("/")[0]) for folder, below in BELOW.items())


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_imports_only_from_below(folder: str) -> None:
    excepted = {(module, name) for module, name in EXCEPTIONS if module.startswith(f"{folder}/")}
    assert forbidden_imports(folder) == excepted, "mend a new import; take an exception that is mended off the list"


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


def test_whatever_is_imported_is_installed_by_name() -> None:
    """What comes only with another package's dependencies is gone when that package changes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
    ]
    names = {re.split(r"[\[<>=]", entry)[0].lower().replace("_", "-") for entry in listed}
    found = packages_distributions()  # without extras that are not installed here: their modules are called as they are

    def installed_by_name(module: str) -> bool:
        return any(name.lower().replace("_", "-") in names for name in found.get(module, [module]))

    third_party = set().union(*map(imported, MODULES)) - sys.stdlib_module_names - set(FORBIDDEN) - {""}
    assert {module for module in third_party if not installed_by_name(module)} == set()
