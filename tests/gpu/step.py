"""`python -m tests.gpu.step MODULE`: one step of `tests.gpu`, in this process."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from tests.gpu.bench import Bench
from tests.gpu.findings import Findings


def main() -> None:
    """Import the step's module and let it measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    call = parser.parse_args()
    bench = Bench(call.device, call.folder, call.data, call.weights)
    importlib.import_module(call.module).measure(bench, Findings(call.out))


if __name__ == "__main__":
    main()
