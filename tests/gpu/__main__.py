"""`python -m tests.gpu`: everything that only a GPU can show, in under 8 minutes on one, from a fresh clone.

    python -m tests.gpu [--wheels DIR] [--data DIR] [--weights DIR] [--out DIR] [--step NAME …] [--minutes 8]

It needs torch, and no network. Packages that the machine lacks may be carried along as wheels: then an environment is
made that has the machine's packages and these. What is still missing is listed, and the steps that need it are left
out. Each step (`tests.gpu.steps`) runs in a process of its own with a time limit of its own; one that fails or hangs
does not end the others. `gpu.md`, the table, and `gpu.json` are replaced after each step. Without a GPU the CPU takes
its place with tiny networks: that tries the script, and its figures mean nothing.

On a machine with a network, wheels for Python 3.12 on Linux, where torch, timm and torchvision are there already:

    for="--only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64"
    pip download $for -d wheels pydantic
    pip download $for -d wheels --no-deps albumentations==2.0.8 albucore==0.0.24 stringzilla simsimd tomli-w
    pip download $for -d wheels --no-deps optuna==5.0.* colorlog cmaes==0.13.* ray==2.60.*    # for the step search

The exit status is 1 if a step failed, a check does not hold, or no step could be done.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from tests.benchmarks import report
from tests.gpu import table
from tests.gpu.environment import prepare
from tests.gpu.steps import STEPS, Ended, is_success, run_step

CPU_PATIENCE = 4
"""The steps' limits are meant for a GPU; on the CPU each may take so many times as long."""
FACES = report.ROOT.parent / "shared" / "faces" / "dev"


def main() -> int:
    """Run the steps that were asked for, and return the exit status."""
    call = _arguments()
    call.out.mkdir(parents=True, exist_ok=True)
    until = perf_counter() + 60 * call.minutes
    wanted = [step for step in STEPS if not call.step or step.name in call.step]
    with tempfile.TemporaryDirectory(prefix="tests-gpu-") as scratch:
        folder = Path(scratch)
        began = perf_counter()
        environment = prepare(folder, call.wheels, sorted({name for step in STEPS for name in step.needs}))
        device = call.device if call.device != "auto" else "cuda" if environment.gpu else "cpu"
        print(f"{environment.python} on {device}, after {perf_counter() - began:.1f} s", flush=True)
        settings = {"device": device, "minutes": call.minutes, "data": str(call.data), "weights": str(call.weights)}
        record = {**report.environment(), "settings": settings}
        ended: list[Ended] = []
        table.write(call.out, record, environment, ended)
        for step in wanted:
            ended.append(
                run_step(
                    step,
                    folder,
                    python=environment.python,
                    options=_options(call, device),
                    missing=environment.missing,
                    remaining_s=until - perf_counter(),
                    patience=1 if device == "cuda" else CPU_PATIENCE,
                )
            )
            print(f"{step.name}: {ended[-1].state}, {ended[-1].seconds:.1f} s", flush=True)
            table.write(call.out, record, environment, ended)
            if ended[-1].state.is_bad:
                shutil.copy(folder / f"{step.name}.log", call.out)
    print(table.table(record, environment, ended))
    return 0 if is_success(ended) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: a GPU if torch has one"
    )
    parser.add_argument("--wheels", type=Path, help="folder of wheels that were carried along")
    parser.add_argument("--data", type=Path, default=_there(FACES), help=f"contest folder; default: {FACES}, or drawn")
    parser.add_argument("--weights", type=Path, help="folder of weights for the search; default: random weights")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where gpu.md and gpu.json go")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything; later steps are not begun")
    names = [step.name for step in STEPS]
    parser.add_argument("--step", action="append", choices=names, help="only this one; may be given again")
    return parser.parse_args()


def _there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _options(call: argparse.Namespace, device: str) -> list[str]:
    """The options of `tests.gpu.step` that are the same for all steps. The CPU is given few photos: drawn ones."""
    options = ["--device", device]
    if call.data is not None and device == "cuda":
        options += ["--data", str(call.data.resolve())]
    if call.weights is not None:
        options += ["--weights", str(call.weights.resolve())]
    return options


if __name__ == "__main__":
    sys.exit(main())
