"""deploy/Containerfile, as far as it can be tried without a builder: its form, what it copies, what it runs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.commands import call_module
from tests.deploy.search_files import DEPLOY, ROOT, tool
from tests.test_wheel import FILES, SOURCES

FILE = DEPLOY / "Containerfile"
IGNORE = DEPLOY / "Containerfile.dockerignore"
CPU_WHEELS = "--index-url https://download.pytorch.org/whl/cpu"


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its text, with continued lines joined."""
    lines = "\n".join(line for line in FILE.read_text().splitlines() if not line.startswith("#"))
    return [(word, text) for word, text in re.findall(r"^([A-Z]+) (.*)$", lines.replace("\\\n", " "), re.M)]


def texts(instruction: str) -> list[str]:
    """The texts of all instructions of one name."""
    return [text for word, text in instructions() if word == instruction]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([tool("hadolint"), FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_copies_what_a_wheel_is_built_of_and_the_builder_gets_nothing_else() -> None:
    """Test_wheel.py builds the wheel of the same files, and runs it."""
    copied = [source for text in texts("COPY") if "--from" not in text for source in text.split()[:-1]]
    assert sorted(copied) == sorted([*SOURCES, *FILES])
    tracked = subprocess.run(["git", "ls-files", "--", *copied], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {Path(line).parts[0] for line in tracked.stdout.splitlines()} == set(copied)
    kept = [line[1:] for line in IGNORE.read_text().splitlines() if line.startswith("!")]
    assert sorted(kept) == sorted(copied)


def test_its_arguments_are_what_the_project_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    arguments = dict(text.split("=") for text in texts("ARG"))
    assert arguments["PYTHON"] in SpecifierSet(project["requires-python"])
    assert set(arguments["EXTRAS"].split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("cuda", "pip install --no-cache-dir torch torchvision"),
        ("cpu", f"pip install --no-cache-dir torch torchvision {CPU_WHEELS}"),
        ("rocm", "TORCH is cuda or cpu, and not rocm"),
    ],
)
def test_torch_is_installed_for_the_processor_that_is_asked_for(torch: str, said: str) -> None:
    """The step itself runs, with pip's words printed in place of pip."""
    (step,) = [text for text in texts("RUN") if "$TORCH" in text]
    script = f'pip() {{ echo "pip $*"; }}\n{step}'
    done = subprocess.run(["bash", "-c", script], env={"TORCH": torch}, capture_output=True, text=True, check=False)
    assert (done.stdout + done.stderr).strip() == said
    assert done.returncode == (torch == "rocm")


def test_the_user_is_no_root_by_number_and_the_command_runs() -> None:
    (user,) = texts("USER")
    assert int(user) > 0
    assert f"--uid {user} " in " ".join(texts("RUN"))
    assert instructions()[-1] == ("CMD", '["maskcls", "--help"]')
    said = call_module("maskcls", "--help")
    assert said.status == 0
    assert "search" in said.out
