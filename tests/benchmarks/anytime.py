"""`python -m tests.benchmarks.anytime`: macro F1 on people that no search saw, against the time that it was given.

Each side begins from nothing: empty caches, photos to read and check, Ray to start; and it ends with a classifier that
has been chosen. The photos are --data, in the contest's layout; the score is on its eval/ folder, whose classes are in
--answers, which only the score reads. Without --data, people are drawn. Sides:

- maskcls: the default call, `maskcls search --data DIR --weights DIR --time-budget TIME`, a run for each time.
  Its choice counts in the time.
- random search: recipes of the same default space drawn at random and trained by the same code, `--sampler random
  --scheduler none --finalists 0`, one run of the longest time. At each time the best by validation of the trials that
  had ended is scored. It begins with the contest project's recipe and has no starting points: presets and starting
  points are a part of this product.
- random from our start: the same, with our preset and starting points before the first random recipe.
- plain Ray Tune: tests/benchmarks/plain_ray.py, one run of the longest time over --space with --set, from the contest
  project's recipe. At each time the best epoch by validation of all trials is scored.
- AutoGluon: tests/benchmarks/auto_gluon.py, its own hyperparameter search for a time limit, a run for each time; only
  with --autogluon, and only with weights.

Round r has seed and split r on every side, so that rounds are different searches over different people. A side of a
round that was measured is kept under --out, so the same command goes on where it was interrupted. Run it where nothing
else runs. It writes anytime.json, anytime.md and anytime.png into --out.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.dataset import prepare
from maskcls.data.demo.folder import ANSWERS, draw
from maskcls.errors import CallError
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.metrics import scores
from maskcls.training.presets import CONTEST_PRESET
from tests.benchmarks import report
from tests.benchmarks.against_ray import plain_job
from tests.benchmarks.process_tree import usage
from tune.runs import cluster
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.search.options import SearchOptions, resolve

DEMO_PEOPLE = 400
MINUTES = (5.0, 10.0, 20.0)


class Asked(NamedTuple):
    """What every side is given."""

    data: Path
    weights: str
    """none, or a folder."""
    minutes: tuple[float, ...]
    epochs: int
    """Of the sides that are not this product, whose default call chooses for itself; so with all that follows."""
    image_size: int
    space: str
    set: tuple[str, ...]
    """The space of plain Ray Tune, and what is fixed in it."""
    autogluon: str
    """The Python of an environment that has it, or "". """


class Scored(NamedTuple):
    """A side's classifier at one time: minutes since it began, and its classes of eval's photos by their names."""

    minutes: float
    classes: dict[str, int]
    record: dict[str, Any] | None = None
    """The run's search.json, where the side is this product."""


Side = Callable[[Asked, int, Path], list[Scored]]


def main(
    data: cli.Data = None,
    answers: Annotated[Path | None, typer.Option(help="CSV of eval's classes: ImageID, ans.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of weights.", show_default="random weights")] = None,
    epochs: Annotated[int, typer.Option(help="Of a trial of the other sides.")] = 6,
    image_size: Annotated[int, typer.Option(help="Of the other sides, px.")] = 112,
    space: Annotated[str, typer.Option(help="Space of plain Ray Tune.")] = "freezing",
    set_: Annotated[list[str], typer.Option("--set", help="key=value of plain Ray Tune.")] = ["backbone=resnet10t"],  # noqa: B006 - typer copies it
    autogluon: Annotated[Path | None, typer.Option(help="Python of an environment with AutoGluon.")] = None,
    minutes: Annotated[list[float], typer.Option(help="A time to score at; may be repeated.")] = list(MINUTES),  # noqa: B006
    sides: Annotated[list[str], typer.Option("--side", help="A side; may be repeated.", show_default="all")] = [],  # noqa: B006
    rounds: Annotated[int, typer.Option(help="Rounds of each side.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the record.")] = Path("runs/benchmarks/anytime"),
) -> None:
    """Measure all sides, round by round, and draw the picture."""
    if (data is None) != (answers is None):
        raise CallError("--data and --answers belong together: give both, or neither for drawn faces.")
    if unknown := set(sides) - set(SIDES):
        raise CallError(f"--side is one of {', '.join(SIDES)}, but got {', '.join(sorted(unknown))}.")
    asked_for = [name for name in SIDES if name in (sides or SIDES)]
    if AUTOGLUON in asked_for and (autogluon is None or weights is None):
        if sides:
            raise CallError("The side AutoGluon needs --autogluon and --weights.")
        print("AutoGluon is left out: it needs --autogluon and --weights.")
        asked_for.remove(AUTOGLUON)
    with tempfile.TemporaryDirectory() as folder:
        if data is None or answers is None:
            data = Path(folder) / "faces"
            draw(data, DEMO_PEOPLE, seed=0)
            answers = data / ANSWERS
        asked = Asked(
            data.absolute(),
            "none" if weights is None else str(weights.absolute()),
            tuple(sorted(minutes)),
            epochs,
            image_size,
            space,
            tuple(set_),
            "" if autogluon is None else str(autogluon.absolute()),
        )
        truth = _truth(answers)
        warm_up(asked)
        results = [
            measured(out / f"round-{number}-{name}.json", SIDES[name], asked, number, truth)
            for number in range(rounds)
            for name in asked_for
        ]
    named = [name for _ in range(rounds) for name in asked_for]
    found = summarised(list(zip(named, results, strict=True)))
    settings = {**asked._asdict(), "data": data.name, "weights": Path(asked.weights).name, "rounds": rounds}
    report.write(out / "anytime.json", found, **settings)
    (out / "anytime.md").write_text(table(found) + "\n")
    draw_picture(found, out / "anytime.png")
    print(table(found))


def _truth(answers: Path) -> dict[str, int]:
    known = pd.read_csv(answers, dtype={"ImageID": str})
    return dict(zip(known["ImageID"], known["ans"].astype(int), strict=True))


def warm_up(asked: Asked) -> None:
    """Read every photo and library once, so that all sides find them in the disk's cache."""
    for file in asked.data.rglob("*"):
        if file.is_file():
            file.read_bytes()
    subprocess.run(
        [sys.executable, "-c", "import torch, torchvision, timm, ray.tune, optuna, albumentations"], check=True
    )


def measured(file: Path, side: Side, asked: Asked, number: int, truth: Mapping[str, int]) -> list[list[float]]:
    """The side's scores in that round, `[minutes, macro F1]` each, from the file where it was measured before."""
    under = json.loads(
        json.dumps({**asked._asdict(), "data": asked.data.name, "commit": report.environment()["commit"]})
    )
    if file.exists() and (kept := json.loads(file.read_text()))["under"] == under:
        return kept["scores"]  # type: ignore[no-any-return]
    with tempfile.TemporaryDirectory() as folder:
        found = side(asked, number, Path(folder))
    points = [[each.minutes, f1_of(each.classes, truth)] for each in found]
    file.parent.mkdir(parents=True, exist_ok=True)
    kept_records = [each.record for each in found if each.record]
    file.write_text(json.dumps({"under": under, "scores": points, "records": kept_records}))
    print(f"{file.stem}: " + ", ".join(f"{f1:.3f} at {at:.1f} min" for at, f1 in points), flush=True)
    return points


def f1_of(classes: Mapping[str, int], truth: Mapping[str, int]) -> float:
    """Macro F1 of the classes of all photos."""
    names = sorted(truth)
    assert classes.keys() == truth.keys()
    of_all = [pd.Series([each[name] for name in names]).to_numpy() for each in (truth, classes)]
    return float(scores(*of_all).f1)


def maskcls(asked: Asked, number: int, there: Path) -> list[Scored]:
    """This product, a run for each time."""
    found = []
    for minutes in asked.minutes:
        taken = usage(_search(asked, number, there, f"for-{minutes:g}", minutes), there / "log")
        made = there / f"for-{minutes:g}"
        record = json.loads((made / "search.json").read_text())
        found.append(Scored(taken.seconds / 60, _predicted(asked, made / "best", there), record))
    return found


def random_search(asked: Asked, number: int, there: Path) -> list[Scored]:
    """Random recipes alone; `Scored.minutes` are those that were asked for."""
    space = there / "no_points.py"
    space.write_text(NO_POINTS)
    return _random(asked, number, there, "--space", space, "--preset", CONTEST_PRESET)


def random_from_our_start(asked: Asked, number: int, there: Path) -> list[Scored]:
    """Our preset and starting points, then random recipes; `Scored.minutes` are those that were asked for."""
    return _random(asked, number, there)


NO_POINTS = '''"""The default space without its starting points."""

from dataclasses import replace

from search_spaces import get
from tune.search.options import DEFAULT_SPACE

SPACE = replace(get(DEFAULT_SPACE), points=lambda setting: ())
'''


def _random(asked: Asked, number: int, there: Path, *words: object) -> list[Scored]:
    """A search without model, early stopping and choice: the best trial by validation at each time."""
    given: list[object] = ["--sampler", "random", "--scheduler", "none", "--finalists", 0, "--trials", 1000]
    given += ["--keep", 1000, "--epochs", asked.epochs, "--image-size", asked.image_size, *words]
    usage(_search(asked, number, there, "random", max(asked.minutes), *given), there / "log")
    searched = SearchRun.open("random", there)
    began = datetime.fromisoformat(searched.record().sessions[0].began).timestamp()
    trials = [trial for trial in records(searched) if trial.f1 is not None and trial.state.ended]
    ended = {
        trial.trial_id: (searched.trial(trial.trial_id) / "epochs.jsonl").stat().st_mtime - began for trial in trials
    }
    found = []
    for minutes in asked.minutes:
        by_then = [trial for trial in trials if ended[trial.trial_id] <= minutes * 60]
        if by_then:
            best = max(by_then, key=lambda trial: trial.f1 or 0.0)
            bundle = there / f"bundle-{minutes:g}"
            _run("tune.export", "--run", searched.path, "--trial", best.trial_id, "--out", bundle)
            found.append(Scored(minutes, _predicted(asked, bundle, there)))
    return found


def plain_ray_tune(asked: Asked, number: int, there: Path) -> list[Scored]:
    """Ray's PyTorch tutorial; `Scored.minutes` are those that were asked for."""
    faces = prepare(asked.data, split_seed=number, cache=CacheOptions(there / "unused"))
    options = {name: getattr(asked, name) for name in ("space", "epochs", "image_size", "weights")}
    plan = resolve(
        SearchOptions(**options, preset=CONTEST_PRESET, set=list(asked.set), scale="cpu", seed=number, parallel=2),
        cluster.here(),
    ).plan
    settings = {
        "space": asked.space,
        "trials": 1,
        "epochs": asked.epochs,
        "parallel": 2,
        "loader_workers": 0,
        "seed": number,
    }
    unseen = _unseen(asked)
    seconds = [round(60 * minutes) for minutes in asked.minutes]
    job = plain_job(plan, faces, asked.weights, settings)
    job |= {"time_budget_s": max(seconds), "score_at_s": seconds}
    job["unseen_files"] = list(unseen.values())
    (there / "job.json").write_text(json.dumps(job))
    _run("tests.benchmarks.plain_ray", there / "job.json", there / "trials.json")
    found = []
    for at in seconds:
        if (file := Path(f"{there / 'trials.json'}.{at}.json")).exists():
            classes = json.loads(file.read_text())["classes"]
            found.append(Scored(at / 60, dict(zip(unseen, classes, strict=True))))
    return found


def autogluon(asked: Asked, number: int, there: Path) -> list[Scored]:
    """AutoGluon's own search, a run for each time, on the split and the weights that the other sides have."""
    faces = prepare(asked.data, split_seed=number, cache=CacheOptions(there / "unused"))
    files, labels = (faces.photos[name].tolist() for name in ("file", "label"))
    unseen = _unseen(asked)
    job: dict[str, Any] = {
        side: {"files": [files[row] for row in rows], "labels": [labels[row] for row in rows]}
        for side in ("train", "validation")
        for rows in [faces.rows(side).tolist()]
    }
    job["weights"] = {file.stem: str(file) for file in sorted(Path(asked.weights).glob("*.safetensors"))}
    job["image_size"], job["unseen_files"] = asked.image_size, list(unseen.values())
    found = []
    for minutes in asked.minutes:
        # Its imports and its prediction count in the time; with its limit it counts from when it begins to fit.
        (there / "job.json").write_text(json.dumps({**job, "seconds": round(60 * minutes)}))
        script = report.ROOT / "tests" / "benchmarks" / "auto_gluon.py"  # a file: other projects have a package `tests`
        words = [asked.autogluon, "-P", script, there / "job.json", there / "classes.json"]
        taken = usage(list(map(str, words)), there / "log")
        classes = json.loads((there / "classes.json").read_text())
        found.append(Scored(taken.seconds / 60, dict(zip(unseen, classes, strict=True))))
    return found


AUTOGLUON = "AutoGluon"
SIDES: dict[str, Side] = {
    "maskcls": maskcls,
    "plain Ray Tune": plain_ray_tune,
    "random search": random_search,
    AUTOGLUON: autogluon,
    "random from our start": random_from_our_start,
}


def _search(asked: Asked, number: int, there: Path, name: str, minutes: float, *words: object) -> list[str]:
    """The command of a search that begins with an empty cache: nothing is stated that a user would have to know."""
    given: list[object] = ["--data", asked.data, "--weights", asked.weights, "--time-budget", f"{minutes:g}m"]
    given += ["--seed", number, "--split-seed", number, "--runs", there, "--name", name]
    given += ["--cache", there / f"cache-{name}", *words]
    return [sys.executable, "-m", "tune.search", *map(str, given)]


def _unseen(asked: Asked) -> dict[str, str]:
    """The files of eval's photos by their names, in rising order."""
    names = sorted(pd.read_csv(asked.data / "eval" / "info.csv", dtype=str)["ImageID"])
    return {name: str(asked.data / "eval" / "images" / name) for name in names}


def _predicted(asked: Asked, bundle: Path, there: Path) -> dict[str, int]:
    """Classes of eval's photos by a bundle."""
    out = there / "submission.csv"
    out.unlink(missing_ok=True)
    _run("maskcls.predict", "--bundle", bundle, "--images", asked.data / "eval" / "info.csv", "--out", out)
    return _truth(out)


def _run(module: str, *words: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, words)], check=True, cwd=report.ROOT, capture_output=True)


def summarised(measured: Sequence[tuple[str, list[list[float]]]]) -> dict[str, dict[str, Any]]:
    """Of each side and time, in their order: minutes and F1, mean and standard deviation over the rounds."""
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for name, _ in measured):
        rounds = [points for side, points in measured if side == name]
        times = [[points[at] for points in rounds if len(points) > at] for at in range(max(map(len, rounds)))]
        found[name] = {
            "minutes": [statistics.fmean(at for at, _ in each) for each in times],
            "f1": [report.summary([f1 for _, f1 in each]) for each in times],
        }
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per side and time, as Markdown."""
    rows = [
        f"| {side} | {minutes:.1f} | {f1['mean']:.3f}{_spread(f1)} | {f1['n']} |"
        for side, values in found.items()
        for minutes, f1 in zip(values["minutes"], values["f1"], strict=True)
    ]
    return "\n".join(["| side | minutes | macro F1 on unseen people | n |", "|---|---|---|---|", *rows])


def _spread(f1: Mapping[str, Any]) -> str:
    """The standard deviation, where there is more than one round."""
    return f" +- {f1['sd']:.3f}" if f1["n"] > 1 else ""


def draw_picture(found: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """F1 against minutes, a line per side with its rounds as dots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for side, values in found.items():
        (line,) = axes.plot(values["minutes"], [f1["mean"] for f1 in values["f1"]], marker="o", label=side)
        for minutes, f1 in zip(values["minutes"], values["f1"], strict=True):
            axes.scatter([minutes] * f1["n"], f1["values"], s=12, alpha=0.5, color=line.get_color())
    axes.set(xlabel="minutes, from nothing to a chosen classifier", ylabel="macro F1 on people that no search saw")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    run(main)
