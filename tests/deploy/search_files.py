"""What the files of deploy/ that run a search say: the words of their commands."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = ("README.md", "rayjob.yaml", "slurm.sh", "maskcls-search.service")
"""In which the command stands; that of `ray up` is in README.md, after the plain one."""


def search_commands(name: str) -> list[list[str]]:
    """The words of each `maskcls search` in a file, from the option after it on."""
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    text = re.sub(r"\n[ ]+(--)", r" \1", text)  # folded lines of YAML and Markdown
    return [shlex.split(words) for words in re.findall(r"maskcls search ((?:--[^\n'`]+)+)", text)]


def option_names(words: list[str]) -> list[str]:
    """The options in their order, without values."""
    return [word for word in words if word.startswith("--")]


def tool(name: str) -> str:
    """A program of this environment or of the machine; the test is skipped where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine")
    return found
