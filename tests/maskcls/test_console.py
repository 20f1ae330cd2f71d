"""`maskcls`: every command under one name, each imported only when it is asked for."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command

from maskcls.__main__ import COMMANDS, app, load
from maskcls.cli import app_of
from tests.commands import call_module
from tests.structure import HEAVY

ROOT = Path(__file__).parents[2]
PACKAGES = ("maskcls", "search_spaces", "tune")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script as pip writes it."""
    file = tmp_path_factory.mktemp("bin") / "maskcls"
    file.write_text(f"#!{sys.executable}\nimport sys\nfrom maskcls.__main__ import main\nsys.exit(main())\n")
    file.chmod(0o755)
    return file


def started(
    *command: str | Path, cwd: Path = ROOT, path: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(path), **(environment or {})},
    )


def test_every_command_that_reads_a_cache_takes_one_that_others_may_write() -> None:
    options = {
        name: {one.name for one in get_command(app_of(load(target))).params} for name, (target, _) in COMMANDS.items()
    }
    reading = {name for name, own in options.items() if "cache" in own}
    assert len(reading) == 8
    assert all("shared_cache" in options[name] for name in reading)


def test_every_module_that_is_a_command_is_listed() -> None:
    def is_command(file: Path) -> bool:
        tests = [node.test for node in ast.parse(file.read_text()).body if isinstance(node, ast.If)]
        return any(ast.unparse(test) == "__name__ == '__main__'" for test in tests)

    files = [file for package in ("maskcls", "tune") for file in (ROOT / package).rglob("*.py") if is_command(file)]
    modules = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    assert {target.partition(":")[0] for target, _ in COMMANDS.values()} == modules - {"maskcls.__main__"}
    assert len(COMMANDS) == 18
    for name, (target, _) in COMMANDS.items():
        assert name in target.partition(":")[0].split("."), "the name is the module's"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_is_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    get_command(app).main([name, "--help"], prog_name="maskcls", standalone_mode=False)
    shown = capsys.readouterr().out
    get_command(app_of(load(COMMANDS[name][0]))).main(["--help"], prog_name=f"maskcls {name}", standalone_mode=False)
    assert shown == capsys.readouterr().out
    assert shown.startswith(f"Usage: maskcls {name} [OPTIONS]")
    assert "..." not in shown.partition("\nCommands:")[2], "what a part does is one short sentence"


@pytest.mark.parametrize(
    ("words", "completed", "imported"),
    [
        (["--help"], "", set()),
        (["--version"], "", set()),
        (["search", "--help"], "", {"tune.search.__main__"}),
        (["predict", "--help"], "", {"maskcls.predict"}),
        ([], "maskcls s", set()),
        ([], "maskcls search --sp", {"tune.search.__main__"}),
        ([], "maskcls search --list-spaces --sp", {"tune.search.__main__"}),
        ([], "maskcls --version s", set()),
    ],
)
def test_only_the_command_that_is_asked_for_is_imported(
    words: list[str], completed: str, imported: set[str], tmp_path: Path
) -> None:
    """Nothing heavy in any case, so that help and completion are there at once."""
    script = tmp_path / "maskcls"
    heavy = {target.partition(":")[0] for target, _ in COMMANDS.values()} | HEAVY - {"pydantic"}  # typer imports it
    script.write_text(
        f"import atexit, sys\n"
        f"atexit.register(lambda: print('imported', sorted({heavy!r} & set(sys.modules))))\n"
        f"from maskcls.__main__ import main\nmain()\n"
    )
    environment = {"COMP_WORDS": completed, "COMP_CWORD": str(len(completed.split()) - 1)}
    environment |= {"_MASKCLS_COMPLETE": "complete_bash"} if completed else {}
    done = started(sys.executable, script, *words, environment=environment)
    assert done.returncode == 0, done.stderr
    *said, last = done.stdout.splitlines()
    assert last == f"imported {sorted(imported)}"
    assert said[0] == {
        (): "--space" if completed.endswith("--sp") else "search",
        ("--version",): f"maskcls {version('maskcls')}",
        ("--help",): "Usage: maskcls [OPTIONS] COMMAND [ARGS]...",
    }.get(tuple(words), f"Usage: maskcls {''.join(words[:1])} [OPTIONS]")


@pytest.mark.parametrize(
    "words",
    [
        ["search", "--space", "freezig"],
        ["search", "--spaces"],
        pytest.param(["check", "--data", "nowhere"], marks=pytest.mark.soak),
        pytest.param(["cache", "list", "--cache", "nowhere"], marks=pytest.mark.soak),
        pytest.param(["evaluate", "--images", "nowhere"], marks=pytest.mark.soak),
        pytest.param(["export", "--run", "nowhere", "--out", "x"], marks=pytest.mark.soak),
    ],
)
def test_errors_and_statuses_are_those_of_python_m(
    words: list[str], script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, *options = words
    module = COMMANDS[command][0].partition(":")[0].removesuffix(".__main__")
    monkeypatch.chdir(tmp_path)
    alone = call_module(module, *options)
    together = started(script, *words, cwd=tmp_path)
    assert alone.status in (1, 2)
    assert "Traceback" not in together.stderr
    spelled = alone.err.replace(f"python -m {module}", f"maskcls {command}")
    assert (together.returncode, together.stdout, together.stderr) == (alone.status, alone.out, spelled)


def test_a_command_that_does_not_exist(script: Path) -> None:
    done = started(script, "serach")
    assert done.returncode == 2
    assert "No such command 'serach'. Did you mean 'search'?" in done.stderr
    assert started(script).returncode == 2


def test_a_users_own_tune_is_passed_by_or_named(script: Path, tmp_path: Path) -> None:
    (tmp_path / "tune.py").write_text("print('a foreign file was imported')\n")
    done = started(script, "search", "--list-spaces", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("backbones ")
    done = started(sys.executable, "-m", "maskcls", "search", "--list-spaces", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: The package tune in {ROOT} is hidden or damaged; Python finds {tmp_path}")
    assert done.stderr.count("\n") == 1


def test_another_distribution_over_ours_is_named(script: Path, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    (tmp_path / "tune" / "__init__.py").write_text("import what_the_other_one_needs\n")
    (tmp_path / "tune-1.0.dist-info").mkdir()
    (tmp_path / "tune-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tune\nVersion: 1.0\n")
    done = started(script, "search", "--help", path=tmp_path)
    assert done.returncode == 2
    assert "the distribution tune, which was installed over it instead" in done.stderr
    assert "`pip uninstall tune` and install maskcls again." in done.stderr
    assert started(script, "predict", "--help", path=tmp_path).returncode == 0
