"""Every command in README and in docs/guide.md runs, in their order, on a small folder of drawn faces."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from maskcls.__main__ import COMMANDS, load
from maskcls.cli import app_of
from tests.commands import call, call_module
from tests.conftest import DemoFaces
from tune.search import __main__ as search

ROOT = Path(__file__).parents[1]
SMALL = ["--weights", "none", "--image-size", "32", "--parallel", "1", "--set", "head_width=8"]
SMALL += ["--set", "backbone=test_resnet"]
DOCUMENTS = ("README.md", "docs/guide.md")
# What is added so that a command takes seconds; the rest of it is as documented.
CHEAPER = {
    "python -m tune.search --space freezing": [*SMALL, "--finalists", "2", "--repeats", "2"],
    "python -m maskcls.train": ["--epochs", "1", *SMALL[:4], *SMALL[-2:]],
    "python -m tune.compare --data faces": ["--epochs", "1", *SMALL],
}
REPLACED = {
    "--trials 12 --epochs 6": "--trials 2 --epochs 1",
    "--trials 14": "--trials 3",
    "--persons 60": "--persons 8",
    "--seeds 5": "--seeds 2",
    "frozen_stages=0,3,5": "frozen_stages=0",
}
ELSEWHERE = {
    "make search": "tests/tune/search/test_events.py and tests/tune/api/test_call.py search fewer drawn faces",
    "make test": "this is it",
    "python -m tune.search --space everything --data ../shared/faces/dev": "half an hour; README shows what it found",
    "python -m tune.search --space everything --scale cpu": "many minutes; docs has its report",
    "python -m tune.compare --study gaps": "an hour; tests/tune/compare/test_contest_study.py tests its parts",
    "python -m tune.compare --data faces --vary corrections": "tests/tune/compare/test_corrected.py",
    "python -m tune.compare --study contest": "an hour; tests/tune/compare/test_contest_study.py tests its parts",
    "source": "the test's interpreter is the environment's",
    "python -m maskcls.serve": "tests/maskcls/serving/web/test_page.py, in a browser",
    "ray start": "needs a port of its own",
    "python -m tune.search --space backbones": "tests/tune/runs/test_cluster.py and tests/tune/search, with an address",
    "ray job submit": "a cluster's command around a call that is tested",
    "ray get-auth-token": "tests/cluster/test_way_in.py, which makes a token otherwise",
    "maskcls status": "tests/tune/upkeep/test_status.py",
}


def commands() -> list[str]:
    """The documents' commands in their order: lines of shell blocks, and commands in the text."""
    text = "\n".join((ROOT / name).read_text() for name in DOCUMENTS)
    found = []
    for block, inline in re.findall(
        r"```sh\n(.*?)```|`(python -m [^`]+ --[^`]+|python -m maskcls\.cache \w+)`", text, re.S
    ):
        found += [re.sub(r"\s+#.*", "", line).strip() for line in block.splitlines() if line.strip()] or [
            inline.replace("\n", " ")
        ]
    return found


def prefix_in(command: str, table: Mapping[str, object]) -> str | None:
    return next((prefix for prefix in table if command.startswith(prefix)), None)


def test_each_command_runs_here_or_is_tested_elsewhere() -> None:
    assert len(commands()) == 33
    tested = [
        command for command in commands() if command.startswith("python -m") and not prefix_in(command, ELSEWHERE)
    ]
    assert len(tested) == 19
    for prefix in (*CHEAPER, *ELSEWHERE):
        assert any(command.startswith(prefix) for command in commands()), prefix
    for old in REPLACED:
        assert any(old in command for command in commands()), old


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("python -m")])
def test_each_command_takes_its_options(line: str) -> None:
    """In seconds, what the next test finds in minutes: a name of a command or of an option that is no more."""
    _, _, module, *words = shlex.split(line)
    target, _ = COMMANDS[module.partition(".")[2]]
    with suppress(typer.Exit):  # of an option that is an answer of its own
        get_command(app_of(load(target))).make_context(module, words)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_faces: DemoFaces
) -> None:
    shutil.copytree(demo_faces(30, 2), tmp_path / "faces")
    monkeypatch.setenv("MASKCLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for command in commands():
        if prefix_in(command, ELSEWHERE):
            continue
        cheaper = CHEAPER.get(prefix_in(command, CHEAPER) or "", [])
        for old, new in REPLACED.items():
            command = command.replace(old, new)
        python, dash_m, module, *words = shlex.split(command)
        assert (python, dash_m) == ("python", "-m")
        said = call_module(module, *words, *cheaper)
        assert said.status == 0, f"{command}\n{said.out}\n{said.err}"
    lines = (tmp_path / "submission.csv").read_text().splitlines()
    assert lines[0] == "ImageID,ans"
    assert len(lines) == len((tmp_path / "faces" / "eval" / "info.csv").read_text().splitlines())


@pytest.mark.parametrize("document", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda file: file.name)
def test_paths_and_names_in_a_document_exist(document: Path) -> None:
    """`tune/states.py` must be there, and of `tune/states.py:

    TrialState` the name too; so must what a link leads to.
    """
    text = document.read_text()
    for path, name in re.findall(r"`((?:maskcls|search_spaces|tune|tests)/[\w./]*)(?:: (\w+))?`", text):
        assert (ROOT / path).exists(), path
        assert not name or name in names_defined(ROOT / path), f"{path}: {name}"
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / target).exists(), target


def names_defined(file: Path) -> set[str]:
    """Functions, classes, methods and module-level names of a Python file."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return names | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def test_the_figures_that_readme_quotes_are_in_the_study() -> None:
    interval = r"[+-]0\.\d{3} \[[+-]0\.\d{3}, [+-]0\.\d{3}\]"
    quoted = re.findall(interval, (ROOT / "README.md").read_text())
    study = (ROOT / "docs" / "study.md").read_text()
    assert len(quoted) == 6
    text, table = study.split("## All figures")
    for figure in (*quoted, *re.findall(interval, text)):
        assert f"| {figure} |" in table, figure
    assert table.count("| base | 4 |") == 23
    assert len(re.findall(r"\| (?:\*\*better\*\*|\*\*worse\*\*|can't tell) \|", table)) == 53


def test_the_space_in_contributing_is_valid(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    (tmp_path / "my_space.py").write_text(code)
    said = call(search.main, "--space", tmp_path / "my_space.py", "--scale", "cpu", "--trials", 3, "--plan")
    assert said.status == 0, said.err
    assert "augment_rotate_degrees" in said.out
