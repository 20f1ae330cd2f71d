"""What an audit buys, from labels that were made wrong to a comparison with those that were mended.

    python -m tests.benchmarks.audit_pays --data DIR --weights DIR [--seeds 5] [--seed 0] [--epochs 12]

Of a copy of the folder, 4 % of the people get swapped mask photos, 4 % the other gender, and 4 % another age group.
`maskcls audit` trains heads on a frozen backbone, without each of five folds in turn, and writes its proposals. A judge
who knows the truth accepts or rejects the first 200 of them. `tune.compare` then trains without and with the accepted
corrections. Prints what was found and both tables.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import pandas as pd

from maskcls.data.corrections import ACCEPTED, REJECTED
from maskcls.labels import AGES, age_group
from tests.tune.audit.mislabelled import mislabel

JUDGED = 200


def main() -> None:
    call = _arguments()
    began = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        faces, out = Path(folder) / "faces", Path(folder) / "audit"
        wrong = mislabel(call.data, faces, call.seed)
        settings = [
            *("--data", faces, "--weights", call.weights, "--scale", "cpu", "--epochs", call.epochs),
            *("--set", f"backbone={call.backbone}", "--set", "frozen_stages=5", "--image-size", call.image_size),
            *("--cache", call.cache or Path(folder) / "cache"),
        ]
        _run("tune.audit", *settings, "--out", out)
        accepted = _judged(out / "corrections.csv", wrong, call.data)
        vary = f"corrections=none,{accepted}"
        _run("tune.compare", *settings, "--vary", vary, "--seeds", call.seeds, "--runs", folder, "--name", "pays")
        print((Path(folder) / "pays" / "table.md").read_text())
    print(f"{perf_counter() - began:.0f} s.")


def _run(module: str, *words: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True)


def _judged(proposals: Path, wrong: Mapping[str, set[str]], data: Path) -> Path:
    """accepted.csv beside the proposals, from a judge who knows the truth; prints what the first of them are."""
    ages = pd.read_csv(data / "train" / "train.csv", dtype=str).set_index("path")["age"].astype(int)
    with proposals.open() as lines:
        rows = list(csv.DictReader(lines))
    for row in rows[:JUDGED]:
        is_right = row["path"] in wrong.get(row["what"], ())
        if row["what"] == "age":
            is_right &= row["value"] == AGES[age_group(int(ages[row["path"]]))]
        row["judged"] = ACCEPTED if is_right else REJECTED
    for what, who in wrong.items():
        counts = Counter(row["judged"] for row in rows[:JUDGED] if row["what"] == what)
        print(f"{what}: {len(who)} errors; {counts[ACCEPTED]} proposals accepted, {counts[REJECTED]} rejected")
    print(f"mask: {sum(row['what'] == 'mask' for row in rows[:JUDGED])} proposals, all rejected; {len(rows)} in all")
    file = proposals.with_name("accepted.csv")
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[:JUDGED])
    return file


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="contest folder")
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the errors")
    parser.add_argument("--cache", type=Path, help="default: one that is thrown away")
    return parser.parse_args()


if __name__ == "__main__":
    main()
