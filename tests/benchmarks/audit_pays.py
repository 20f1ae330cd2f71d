"""What an audit buys, from labels that were made wrong to a comparison with those that were mended.

    python -m tests.benchmarks.audit_pays --data DIR --weights DIR --out OUT [--seeds 5] [--seed 0] [--epochs 12]

Of a copy of the folder, 4 % of the people get swapped mask photos, 4 % the other gender, and 4 % another age group.
`tune.audit` trains heads on a frozen backbone, without each of five folds in turn, and writes its proposals. A judge
who knows the truth accepts or rejects the first of them, as many as its page shows. `tune.compare` then trains with the
labels as they are and with the accepted corrections, with the same seeds on the same people. Prints what was found and
both tables. What is in OUT already is not done again, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import pandas as pd

from maskcls.data.corrections import ACCEPTED, REJECTED
from maskcls.data.dataset import FaceDataset
from maskcls.files import write_atomically
from maskcls.labels import AGES, age_group
from maskcls.stores.cache_options import CacheOptions
from tests.tune.audit.mislabelled import mislabel
from tune.audit.findings import ranking
from tune.audit.predictions import averaged
from tune.selection.predictions import read_predictions

JUDGED = 200
RECIPE = {
    "frozen_stages": 5,
    "head": "linear",
    "lr_head": 3e-3,
    "task_split": "mask_gender_ages",
    "sampler": "none",
    "augment_flip": 0,
    "augment_probability": 0,
}
"""Without augmentation, so that each photo passes the frozen backbone once."""


def main() -> None:
    call = _arguments()
    began = perf_counter()
    faces, audit = call.out / "faces", call.out / "audit"
    wrong = _mislabelled(call.data, faces, call.seed)
    settings = [
        *(
            "--data",
            faces,
            "--weights",
            call.weights,
            "--scale",
            "cpu",
            "--preset",
            "fine-tune",
            "--epochs",
            call.epochs,
        ),
        *(word for key, value in {"backbone": call.backbone, **RECIPE}.items() for word in ("--set", f"{key}={value}")),
        *("--epochs", call.epochs, "--image-size", call.image_size, "--cache", call.cache or call.out / "cache"),
    ]
    _run("tune.audit", *settings, "--out", audit)
    accepted = audit / "accepted.csv"
    if not accepted.exists():
        _judge(audit / "corrections.csv", wrong, call.data, accepted)
    _print_found(audit, accepted, wrong)
    vary = ("--vary", f"corrections=none,{accepted}", "--seeds", call.seeds)
    _run("tune.compare", *settings, *vary, "--runs", call.out, "--name", "pays", "--begin-or-resume")
    print((call.out / "pays" / "table.md").read_text())
    print(f"{perf_counter() - began:.0f} s.")


def _run(module: str, *words: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True)


def _mislabelled(data: Path, faces: Path, seed: int) -> Mapping[str, set[str]]:
    """The people of each kind of error in the copy of the folder, which is made where it is not there."""
    noted = faces.with_name("wrong.json")
    if not noted.exists():
        found = {what: sorted(who) for what, who in mislabel(data, faces, seed).items()}
        write_atomically(noted, json.dumps(found))
    return {what: set(who) for what, who in json.loads(noted.read_text()).items()}


def _judge(proposals: Path, wrong: Mapping[str, set[str]], data: Path, accepted: Path) -> None:
    """Write the first proposals as a judge who knows the truth leaves them: accepted, or rejected."""
    ages = pd.read_csv(data / "train" / "train.csv", dtype=str).set_index("path")["age"].astype(int)
    with proposals.open() as lines:
        rows = list(csv.DictReader(lines))[:JUDGED]
    for row in rows:
        is_right = row["path"] in wrong.get(row["what"], ())
        if row["what"] == "age":
            is_right &= row["value"] == AGES[age_group(int(ages[row["path"]]))]
        row["judged"] = ACCEPTED if is_right else REJECTED
    with accepted.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _print_found(audit: Path, accepted: Path, wrong: Mapping[str, set[str]]) -> None:
    """Print the precision of a list as long as there are errors, and how the proposals were judged."""
    with accepted.open() as lines:
        rows = list(csv.DictReader(lines))
    faces = FaceDataset.load(audit / "data", CacheOptions(audit))  # no pixels are asked for
    folders = (folder for folder in (audit / "fits").iterdir() if folder.is_dir())
    predictions = averaged(faces, [read_predictions(folder)[::2] for folder in folders], "")
    for what, who in wrong.items():
        hits = len(who & set(ranking(predictions, what).most_doubtful(len(who))))
        counts = Counter(row["judged"] for row in rows if row["what"] == what)
        print(
            f"{what}: {len(who)} errors, {hits} among the {len(who)} most doubtful; of the first {JUDGED} proposals "
            f"{counts[ACCEPTED]} accepted, {counts[REJECTED]} rejected"
        )
    masks = sum(row["what"] == "mask" for row in rows)
    print(f"mask state of one photo: {masks} rejected")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="contest folder")
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights")
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the errors")
    parser.add_argument("--cache", type=Path, help="default: in --out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
