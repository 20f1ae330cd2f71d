"""The Python that the steps run in: this one, or an environment made of its packages and of wheels carried along.

Nothing is fetched from a network. Everything here works with the standard library alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.report import ROOT, installed

INSTALL_S = 120
LOOK_S = 120
# Prints what can be imported and what the GPU is, as JSON on the last line. Modules are imported, not only found: a
# wheel of another platform is found as well.
_LOOK = """
import importlib, json, sys
missing, versions = {}, {}
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        versions[name] = str(getattr(module, "__version__", ""))
    except Exception as error:
        missing[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
gpu = {}
if "torch" in versions:
    import torch
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        gpu = {"name": found.name, "memory_gb": round(found.total_memory / 1e9, 1), "count": torch.cuda.device_count(),
               "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
print(json.dumps({"python": sys.version.split()[0], "versions": versions, "missing": missing, "gpu": gpu}))
"""


@dataclass(frozen=True)
class Environment:
    """An interpreter and what is in it.

    Args:
        python: the interpreter.
        versions: of the modules that can be imported.
        missing: of the others, why not.
        gpu: name, memory in GB, count, versions of CUDA and cuDNN; empty where torch sees no GPU.
        problems: of the installation.
    """

    python: str
    versions: dict[str, str]
    missing: dict[str, str]
    gpu: dict[str, Any]
    problems: list[str] = field(default_factory=list)


def prepare(folder: Path, wheels: Path | None, modules: Sequence[str]) -> Environment:
    """Make an environment in the folder if one is needed, and look into it.

    It is needed where wheels are given, or where maskcls is not installed: bundles note its version.

    Args:
        wheels: a folder of wheels, which are installed without asking for what they need; None: there are none.
        modules: to look for.
    """
    if wheels is None and installed("maskcls") != "missing":
        return look(sys.executable, modules, [])
    try:
        python, problems = _made(folder / "venv"), []
    except (OSError, subprocess.SubprocessError) as error:
        return look(sys.executable, modules, [f"No environment could be made, so no wheels are installed: {error}"])
    files = sorted(wheels.glob("*.whl")) if wheels is not None else []
    if wheels is not None and not files:
        problems.append(f"{wheels} holds no wheels (*.whl).")
    offline = ["--no-index", *(["--find-links", str(wheels)] if wheels is not None else [])]
    if files and _pip(python, *offline, "--no-deps", *map(str, files)):
        # One that does not suit this machine stops them all.
        said = {file: _pip(python, *offline, "--no-deps", str(file)) for file in files}
        problems += [f"{file.name}: {why}" for file, why in said.items() if why]
    if installed("maskcls") == "missing":
        why = _pip(python, *offline, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        problems += [f"maskcls itself: {why}"] if why else []
    return look(str(python), modules, problems)


def look(python: str, modules: Sequence[str], problems: list[str]) -> Environment:
    """Ask an interpreter what it can import, and which GPU its torch sees."""
    call = [python, "-c", _LOOK, *modules]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=LOOK_S, cwd=ROOT, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{python} cannot be used: {error} {error.stderr}".strip()) from None
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"{python} cannot be used: {error}") from None
    found = json.loads(done.stdout.splitlines()[-1])
    return Environment(python, found["versions"], found["missing"], found["gpu"], problems)


def _made(folder: Path) -> Path:
    """An environment that sees this interpreter's packages, also where this one is itself in an environment."""
    venv.create(folder, system_site_packages=True, clear=True, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    # system_site_packages means those of the Python that an environment was made from, not those of the environment.
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (own / "parent.pth").write_text("".join(f"{path}\n" for path in paths))
    return python


def _pip(python: Path, *words: str) -> str:
    """Install with this interpreter's pip into another one; what went wrong in one line, "" if nothing did."""
    # Without --ignore-installed pip would look at, and could want to remove, what the parent has.
    call = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    call += ["--ignore-installed", *words]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return f"pip did not end within {INSTALL_S} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # After "ERROR: Exception:" comes a traceback, whose last line says what it was.
    errors = [line for line in lines if line.startswith("ERROR") and line != "ERROR: Exception:"] or lines[-1:]
    return (errors[0].strip() if errors else f"pip ended with {done.returncode}") if done.returncode else ""
