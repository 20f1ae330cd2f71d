"""`python -m tests.benchmarks.against_ray --case NAME`: a whole search by `tune.search` beside one by plain Ray Tune.

The plain side is `tests/benchmarks/plain_ray.py`, written in the manner of Ray's PyTorch tutorial. Both have the same
photos and split, space (`freezing`, at CPU scale), first points, backbone, weights, size, trials, epochs, trials at a
time, ASHA, and TPE with the same seed. From the first point that the sampler draws, each side has trials of its own,
because their scores differ. The number of epochs that ASHA lets them train depends on which trial reaches a rung first,
so the wall time is also given per epoch. Round r has seed + r on both sides, so that the rounds are different searches.
Cases:

- freezing: the space as it is.
- heads: all five stages frozen, so that it varies the head and its learning rate.
- nothing-frozen: no stage frozen.

Each side is a process of its own, from its start to its end, and rounds alternate. `tune.search --finalists 0` is
measured whole, with the photos read, checked and decoded, the leaderboard, the winner's bundle and the report. It
starts each round with an empty --cache, so it decodes and fills its stores in the time that is measured; with --warm it
keeps one folder, which a search that is not measured fills first. Before all rounds every photo is read once, and every
library imported once, so that the disk's cache holds them.

`tests/benchmarks/process_tree.py` measures wall time, CPU time and memory. Sides that were measured are kept in a file
beside --out until all are, so the same command continues where it was interrupted.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.dataset import FaceDataset, prepare
from maskcls.data.demo.folder import draw
from maskcls.errors import CallError
from maskcls.files import FileKind, append_line
from maskcls.models.weights import find_weights
from maskcls.stores.cache_options import CacheOptions
from tests.benchmarks import report
from tests.benchmarks.process_tree import usage
from tune.runs import cluster
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.search.first_trials import initial_trials
from tune.search.options import SearchOptions, resolve
from tune.search.schedulers import REDUCTION, grace_period
from tune.states import TrialState

SPACE, SCALE, PRESET = "freezing", "cpu", "contest-2021"
CASES: dict[str, dict[str, int]] = {
    "freezing": {},
    "heads": {"frozen_stages": 5, "views": 4},
    "nothing-frozen": {"frozen_stages": 0},
}
TRIALS = {"freezing": 12, "heads": 40, "nothing-frozen": 6}
OURS, PLAIN = "tune.search", "plain Ray Tune"
COLUMNS = {
    "seconds": "wall time, s",
    "f1": "best validation F1",
    "cpu_s": "CPU, s",
    "machine_cpu_s": "the machine's CPU, s",
    "peak_pss_mb": "peak memory (PSS), MB",
    "epochs": "epochs trained",
    "seconds_an_epoch": "wall time per epoch, s",
    "frozen_stages": "stages frozen, mean",
}
RATIOS = ("seconds", "cpu_s", "machine_cpu_s", "peak_pss_mb", "seconds_an_epoch")
LIBRARIES = ("torch", "torchvision", "timm", "ray.tune", "optuna", "albumentations", "sklearn", "pandas")
DEMO_PEOPLE = 60


def main(
    case: Annotated[str, typer.Option(help=f"{', '.join(CASES)}.")] = "freezing",
    data: cli.Data = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of weights.", show_default="random weights")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of a search.", show_default=str(TRIALS))] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of a trial that is not stopped.")] = 6,
    parallel: Annotated[int, typer.Option(help="Trials at a time.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds of each side, alternating.")] = 3,
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    backbone: Annotated[str, typer.Option(help="timm model name.")] = "resnet10t",
    loader_workers: Annotated[int, typer.Option(help="Of the plain side's DataLoader.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the first round.")] = 0,
    warm: Annotated[bool, typer.Option("--warm", help="Let tune.search keep its stores between rounds.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="JSON record.", show_default="runs/benchmarks/against_ray-CASE.json")
    ] = None,
) -> None:
    """Measure both sides, round by round."""
    if case not in CASES:
        raise CallError(f"--case is one of {', '.join(CASES)}, but got {case!r}.")
    out = out or Path(f"runs/benchmarks/against_ray-{case}.json")
    settings = {
        "case": case,
        "trials": trials or TRIALS[case],
        "epochs": epochs,
        "parallel": parallel,
        "image_size": image_size,
    }
    settings |= {"backbone": backbone, "loader_workers": loader_workers, "seed": seed}
    settings |= {
        "weights": "none" if weights is None else weights.name,
        "stores": "warm" if warm else "cold",
        "space": SPACE,
    }
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        search = Search(Path(folder), _data(data, Path(folder)), weights, settings)
        settings |= {"data": "demo faces" if data is None else data.name, **search.photos()}
        record = Rounds(out, settings)
        for number in range(rounds):
            for side in (OURS, PLAIN):
                if not record.has(side, number):
                    record.add(side, number, search.measured(side, number))
    results = summarised(record.values(rounds))
    print(table(results))
    versions = {name: version(name) for name in ("ray", "optuna", "torchvision", "pillow")}
    report.write(out, results, **settings, load_average_1_min_before=load, versions=versions)
    record.file.unlink(missing_ok=True)


class Search:
    """One search, as both sides run it.

    Args:
        folder: where both sides write.
        settings: as in the record.
    """

    def __init__(self, folder: Path, data: Path, weights: Path | None, settings: Mapping[str, Any]) -> None:
        self.folder, self.data, self.settings = folder, data, settings
        self.weights = "none" if weights is None else str(weights.resolve())
        self.faces = prepare(data, cache=CacheOptions(folder / "unused"))
        self.cold = settings["stores"] == "cold"
        self._ready = False

    def photos(self) -> dict[str, int]:
        """Number of photos to train on, and to validate on."""
        return {f"{side}_photos": len(self.faces.rows(side)) for side in ("train", "validation")}

    def measured(self, side: str, number: int) -> dict[str, Any]:
        """Seconds, CPU time, memory, best F1 and trials of one side in one round."""
        if not self._ready:
            self._make_ready()
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            there = Path(place)
            seed = self.settings["seed"] + number
            call = self._our_call(there, seed) if side == OURS else self._plain_call(there, seed)
            taken = usage(call, there / "log")
            trials = self._our_trials(there, seed) if side == OURS else json.loads((there / "trials.json").read_text())
        assert len(trials) == self.settings["trials"], trials
        frozen = [trial["overrides"].get("frozen_stages", self.plan(seed).base.frozen_stages) for trial in trials]
        counted = {"epochs": sum(trial["epochs"] for trial in trials), "frozen_stages": statistics.fmean(frozen)}
        return {**dataclasses.asdict(taken), "f1": max(trial["f1"] for trial in trials), **counted, "trials": trials}

    def plan(self, seed: int) -> Any:
        """The search as `tune.search` plans it."""
        return resolve(SearchOptions(preset=PRESET, **self._asked(seed)), cluster.here()).plan

    def _asked(self, seed: int) -> dict[str, Any]:
        """The options that `tune.search` is given, by name."""
        fixed = {"backbone": self.settings["backbone"], **CASES[self.settings["case"]]}
        asked = {name: self.settings[name] for name in ("space", "trials", "epochs", "parallel", "image_size")}
        asked |= {"data": str(self.data), "weights": self.weights, "scale": SCALE, "seed": seed, "finalists": 0}
        return {**asked, "set": [f"{key}={value}" for key, value in fixed.items()]}

    def _our_call(self, there: Path, seed: int) -> list[str]:
        asked = {
            **self._asked(seed),
            "runs": there,
            "name": "ours",
            "cache": there / "cache" if self.cold else self.folder / "warm",
        }
        pins = [word for value in asked.pop("set") for word in ("--set", value)]
        words = [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return [sys.executable, "-m", "tune.search", *words, *pins]

    def _plain_call(self, there: Path, seed: int) -> list[str]:
        job = plain_job(self.plan(seed), self.faces, self.weights, {**self.settings, "seed": seed})
        (there / "job.json").write_text(json.dumps(job))
        return [sys.executable, "-m", "tests.benchmarks.plain_ray", str(there / "job.json"), str(there / "trials.json")]

    def _our_trials(self, there: Path, seed: int) -> list[dict[str, Any]]:
        """The trials in the run's record, which must be of the same search as the plain side's."""
        found = SearchRun.open("ours", there)
        search = found.record()
        assert search.base_recipe == self.plan(seed).base.model_dump()
        assert (search.data.digest, search.split_digest) == (self.faces.digest, self.faces.split.digest)
        trials = records(found)
        assert all(trial.state in (TrialState.COMPLETE, TrialState.STOPPED_EARLY) for trial in trials), trials
        return [{name: getattr(trial, name) for name in ("overrides", "epochs", "f1", "seconds")} for trial in trials]

    def _make_ready(self) -> None:
        """Read photos and libraries from the disk, and fill warm stores by a search; none of this is measured."""
        for file in self.faces.photos["file"]:
            Path(file).read_bytes()
        subprocess.run([sys.executable, "-c", f"import {', '.join(LIBRARIES)}"], check=True)
        if not self.cold:
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                usage(self._our_call(Path(place), self.settings["seed"]), Path(place) / "log")
        self._ready = True


def plain_job(plan: Any, faces: FaceDataset, weights: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What plain Ray Tune is to search: the plan's space, first points, base recipe, ASHA and photos.

    Args:
        plan: a `SearchPlan`.
        weights: none, or a folder.
        settings: with space, trials, epochs, parallel, loader_workers and seed.
    """
    files, labels = (faces.photos[name].tolist() for name in ("file", "label"))
    job = {name: settings[name] for name in ("space", "trials", "epochs", "parallel", "loader_workers", "seed")}
    job |= {"cpus": plan.cpus, "base": plan.base.model_dump(), "explicit": dict(plan.explicit)}
    job |= {"points": [point for point in initial_trials(plan).values() if point]}
    job |= {"grace_period": grace_period(job["epochs"]), "reduction_factor": REDUCTION}
    job["weights_file"] = None if weights == "none" else str(find_weights(plan.base.backbone, weights))
    for side in ("train", "validation"):
        rows = faces.rows(side).tolist()
        job |= {f"{side}_files": [files[row] for row in rows], f"{side}_labels": [labels[row] for row in rows]}
    return job


ROUNDS = FileKind("one measured round per line, as JSON", "Remove {file} to measure again.")


class Rounds:
    """The rounds measured so far, in a file beside the record; only those of the same settings and commit count."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.file = out.with_suffix(".rounds.jsonl")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._under = {**settings, "commit": report.environment()["commit"]}
        self._found = {}
        for line in ROUNDS.whole_lines(self.file):
            measured = json.loads(line)
            if measured["under"] == self._under:
                self._found[measured["side"], measured["round"]] = measured["values"]

    def has(self, side: str, number: int) -> bool:
        """Whether that side was measured in that round."""
        return (side, number) in self._found

    def add(self, side: str, number: int, values: Mapping[str, Any]) -> None:
        """Keep and print what was measured."""
        self._found[side, number] = values
        append_line(self.file, json.dumps({"under": self._under, "side": side, "round": number, "values": values}))
        print(f"round {number + 1}, {side}: {values['seconds']:.1f} s, F1 {values['f1']:.4f}", flush=True)

    def values(self, rounds: int) -> dict[str, list[dict[str, Any]]]:
        """The values of each side, round by round."""
        return {side: [self._found[side, number] for number in range(rounds)] for side in (OURS, PLAIN)}


def summarised(measured: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The figures of each side; of the rounds the ratios (plain / ours) and the differences in F1 (ours - plain)."""
    measured = {
        side: [{**each, "seconds_an_epoch": each["seconds"] / each["epochs"]} for each in values]
        for side, values in measured.items()
    }
    sides = {
        side: {name: report.summary([each[name] for each in values]) for name in COLUMNS}
        for side, values in measured.items()
    }
    pairs = list(zip(measured[OURS], measured[PLAIN], strict=True))
    ratios = {name: report.summary([plain[name] / ours[name] for ours, plain in pairs]) for name in RATIOS}
    difference = report.summary([ours["f1"] - plain["f1"] for ours, plain in pairs])
    trials = {side: [each["trials"] for each in values] for side, values in measured.items()}
    return {"sides": sides, f"{PLAIN} / {OURS}": ratios, "F1, ours less plain": difference, "trials": trials}


def table(results: Mapping[str, Any]) -> str:
    """One column per side with mean and standard deviation, and one of the ratios with median and range."""
    sides = results["sides"]
    lines = [" " * 24 + "".join(f"{side:>22}" for side in sides) + f"{'ratio, median (range)':>28}"]
    for name, title in COLUMNS.items():
        digits = {"f1": 4, "frozen_stages": 2}.get(name, 1)
        cells = [f"{values[name]['mean']:,.{digits}f} +- {values[name]['sd']:,.{digits}f}" for values in sides.values()]
        ratio = results[f"{PLAIN} / {OURS}"].get(name)
        lines.append(
            f"{title:24}" + "".join(f"{cell:>22}" for cell in cells) + (f"{_spread(ratio, 2):>28}" if ratio else "")
        )
    difference = results["F1, ours less plain"]
    return "\n".join([*lines, f"F1, ours less plain: {_spread(difference, 4)}, n = {difference['n']}"])


def _spread(summary: Mapping[str, Any], digits: int) -> str:
    values = summary["values"]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _data(data: Path | None, folder: Path) -> Path:
    """The folder of photos; without one, demo faces that are drawn before anything is measured."""
    if data is not None:
        return data.resolve()
    draw(folder / "faces", DEMO_PEOPLE, seed=0)
    return folder / "faces"


if __name__ == "__main__":
    run(main)
