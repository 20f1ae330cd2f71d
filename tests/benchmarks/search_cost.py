"""`python -m tests.benchmarks.search_cost`: what a search costs beside its trials.

(a) Trials per second of `tune.search.driver.run_search` beside plain Ray Tune with OptunaSearch, over an objective that
costs nothing: a formula of the space `freezing` at CPU scale. Both have TPESampler(multivariate=True, group=True), ASHA
with the same settings, the same numbers of trials, epochs and trials at a time, and reuse actors; the rounds alternate.
A round is timed from the call to its return, the start of Ray's actors included. Plain Ray keeps its study in memory,
reports a stopped trial to Optuna as complete, and has neither loggers nor output (verbose=0). run_search does all of
its work: the journal on the disk, a recipe and a learning curve for each trial, the leaderboard, gauges, lines of
progress. For information the table also has plain Ray with its defaults: a new actor for each trial, and its three
loggers.

(b) Seconds of a suggestion, a result and a trial's end in the driver, and its memory, after 100, 1,000 and 10,000
trials, each in a fresh process, beside plain Optuna's suggestion; see `tests/benchmarks/search_growth.py`.

(c) Only where it is asked for: results that the driver takes a second from many trials at a time, and what that costs;
see `tests/benchmarks/search_scale.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any
from unittest import mock

import optuna
import typer
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

import search_spaces
from maskcls.cli import run
from maskcls.training.presets import preset
from tests.benchmarks import search_growth
from tests.benchmarks.report import ROOT, summary, table, write
from tune.runs import cluster
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.search.driver import run_search
from tune.search.plan import SearchPlan
from tune.search.schedulers import REDUCTION, grace_period

SPACE = "freezing"
OURS, PLAIN, DEFAULTS = "tune.search", "plain Ray Tune", "plain Ray Tune, its defaults"
PARTS, SIZES, SPACES = ["rate", "growth"], [100, 1_000, 10_000], [SPACE, "everything"]
AT_A_TIME = [8, 64]


def main(
    part: Annotated[
        list[str], typer.Option(help="rate: trials per second. growth: after many trials. scale: many at a time.")
    ] = PARTS,
    trials: Annotated[int, typer.Option(help="Trials of a round.")] = 100,
    epochs: Annotated[int, typer.Option(help="Epochs of a trial that is not stopped.")] = 6,
    parallel: Annotated[int, typer.Option(help="Trials at a time, with one core each.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds of each side, alternating, after one that does not count.")] = 7,
    default_rounds: Annotated[int, typer.Option(help="Rounds of plain Ray Tune with its defaults.")] = 1,
    size: Annotated[list[int], typer.Option(help="Number of trials that ended before.")] = SIZES,
    space: Annotated[list[str], typer.Option(help="Space of the growth part, at CPU scale.")] = SPACES,
    suggestions: Annotated[int, typer.Option(help="Trials measured at each size.")] = 7,
    at_a_time: Annotated[list[int], typer.Option(help="Trials at a time of the scale part.")] = AT_A_TIME,
    taken: Annotated[int, typer.Option(help="Results of the scale part, at least.")] = 3_200,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/search_cost.json"),
) -> None:
    """Measure (a), (b) or (c), or several of them."""
    load, results = os.getloadavg()[0], {}
    if "rate" in part:
        results["rate"] = rate(trials, epochs, parallel, rounds, default_rounds)
        _print_rate(results["rate"])
    if "growth" in part:
        results["growth"] = growth(size, space, suggestions)
        for name, sizes in results["growth"].items():
            _print_growth(name, sizes)
    if "scale" in part:
        results["scale"] = {str(number): _apart("search_scale", number, taken) for number in at_a_time}
        _print_scale(results["scale"])
    settings = {
        "trials": trials,
        "epochs": epochs,
        "parallel": parallel,
        "space": SPACE,
        "load_average_1_min_before": load,
    }
    write(out, results, **settings, versions={name: version(name) for name in ("ray", "optuna")})


def rate(trials: int, epochs: int, parallel: int, rounds: int, default_rounds: int) -> dict[str, Any]:
    """Trials per second of each side and round, epochs per trial, and the ratios of the rounds."""
    sides: dict[str, Callable[[int, int, int], float]] = {OURS: our_search, PLAIN: plain_search}
    seconds: dict[str, list[float]] = {OURS: [], PLAIN: [], DEFAULTS: []}
    epochs_per_trial: dict[str, list[float]] = {OURS: [], PLAIN: [], DEFAULTS: []}

    def measure(name: str, search: Callable[[int, int, int], float]) -> None:
        began = perf_counter()
        epochs_per_trial[name].append(search(trials, epochs, parallel))
        seconds[name].append(perf_counter() - began)

    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    with mock.patch.dict(os.environ, PYTHONPATH=path), cluster.connected(None):
        for _ in range(rounds + 1):
            for name, search in sides.items():
                measure(name, search)
        for _ in range(default_rounds):
            measure(DEFAULTS, plain_search_with_defaults)
    for name in sides:
        del seconds[name][0], epochs_per_trial[name][0]
    rates = {name: summary([trials / took for took in times]) for name, times in seconds.items() if times}
    ratios = [plain / ours for ours, plain in zip(seconds[OURS], seconds[PLAIN], strict=True)]
    return {"trials_per_second": rates, "epochs_per_trial": epochs_per_trial, f"{OURS} / {PLAIN}": summary(ratios)}


def f1(values: Mapping[str, Any], epoch: int) -> float:
    """A macro F1 that rises with the epochs and is highest at lr_head = 1e-3 and two frozen stages."""
    height = 0.9 - 0.1 * abs(math.log10(values["lr_head"]) + 3) - 0.03 * abs(values["frozen_stages"] - 2)
    return max(0.0, height * (1 - 0.5**epoch))


def our_search(trials: int, epochs: int, parallel: int) -> float:
    """Run a search by tune.search.driver. Returns its epochs per trial."""
    base = preset("contest-2021", "cpu").override({"epochs": epochs})
    plan = SearchPlan(
        search_spaces.get(SPACE), search_spaces.Setting("cpu"), base, {"epochs": epochs}, trials, parallel=parallel
    )
    with tempfile.TemporaryDirectory() as folder:
        run = SearchRun.create(Path(folder), "one")
        with contextlib.redirect_stderr(io.StringIO()):
            run_search(plan, run, curve, plain=True)
        done = records(run)
    assert len(done) == trials, done
    return sum(record.epochs for record in done) / trials


def curve(request: Any) -> Generator[dict[str, Any], None, Any]:
    """An objective of tune.search that costs nothing."""
    for epoch in range(1, int(request.recipe["epochs"]) + 1):
        yield {"epoch": epoch, "validation_f1": f1(request.recipe, epoch)}


def plain_search(trials: int, epochs: int, parallel: int, *, reuse_actors: bool = True) -> float:
    """Run the same search as a user of Ray Tune would write it. Returns its epochs per trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def train(config: dict[str, Any]) -> None:
        for epoch in range(1, epochs + 1):
            tune.report({"epoch": epoch, "best_f1": f1(config, epoch)})

    search = OptunaSearch(
        draw,
        metric="best_f1",
        mode="max",
        points_to_evaluate=search_spaces.get(SPACE).points(search_spaces.Setting("cpu")),
        sampler=optuna.samplers.TPESampler(multivariate=True, group=True, seed=0),
    )
    scheduler = ASHAScheduler(
        "epoch",
        "best_f1",
        "max",
        max_t=epochs,
        grace_period=grace_period(epochs),
        reduction_factor=REDUCTION,
    )
    with tempfile.TemporaryDirectory() as folder:
        tuned = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=trials,
                max_concurrent_trials=parallel,
                reuse_actors=reuse_actors,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    assert len(tuned) == trials, tuned
    return sum(result.metrics["epoch"] for result in tuned) / trials


def plain_search_with_defaults(trials: int, epochs: int, parallel: int) -> float:
    """Run it with a new actor for each trial, and with Ray's loggers, which `tune.runs.cluster.quiet` turns off."""
    with mock.patch.dict(os.environ, TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="0"):
        return plain_search(trials, epochs, parallel, reuse_actors=False)


def draw(trial: Any) -> dict[str, Any]:
    """The space as a define-by-run function."""
    return search_spaces.get(SPACE).suggest(trial, search_spaces.Setting("cpu"))


def growth(sizes: list[int], spaces: list[str], suggestions: int) -> dict[str, dict[int, dict[str, Any]]]:
    """By space and size: seconds of what the driver does, its memory, and seconds of a suggestion by plain Optuna."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for space in spaces:
            found[space] = {}
            for size, journal in search_growth.fill(space, sizes, Path(folder)).items():
                sides = ("driver", "optuna")
                driver, plain = (_apart("search_growth", side, journal, space, suggestions) for side in sides)
                assert driver["trials"] == plain["trials"] == size
                seconds = {**driver["seconds"], "plain Optuna's suggestion": plain["seconds"]["suggestion"]}
                memory = {name: driver[name] for name in ("rss_mb", "pss_mb")}
                found[space][size] = {"seconds": {what: summary(times) for what, times in seconds.items()}, **memory}
    return found


def _apart(module: str, *words: object) -> dict[str, Any]:
    """What a module of this folder measures in a process of its own."""
    call = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _print_rate(measured: Mapping[str, Any]) -> None:
    print(table(measured["trials_per_second"], "trials/s"))
    for name, epochs in measured["epochs_per_trial"].items():
        if epochs:
            print(f"{name}: {statistics.fmean(epochs):.2f} epochs per trial")
    ratios = measured[f"{OURS} / {PLAIN}"]["values"]
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)}"
    print(f"{OURS} / {PLAIN}: median {statistics.median(ratios):.3f}, {spread}")


def _print_growth(space: str, sizes: Mapping[int, Mapping[str, Any]]) -> None:
    """Print milliseconds, median and range, with one column per size."""
    columns = [f"{size:,} trials" for size in sizes]
    print(f"\n{space}, ms, median (least to most)".ljust(34) + "".join(f"{column:>34}" for column in columns))
    for what in next(iter(sizes.values()))["seconds"]:
        cells = []
        for one in sizes.values():
            ms = [1e3 * seconds for seconds in one["seconds"][what]["values"]]
            cells.append(f"{statistics.median(ms):,.2f} ({min(ms):,.2f} to {max(ms):,.2f})")
        print(what.ljust(33) + "".join(f"{cell:>34}" for cell in cells))
    for what, name in (("rss_mb", "memory, MB"), ("pss_mb", "its own share of it, PSS, MB")):
        print(name.ljust(33) + "".join(f"{one[what]:>34,.0f}" for one in sizes.values()))


def _print_scale(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Print one row for each number of trials at a time."""
    names = list(next(iter(measured.values())))
    print("\nat a time".ljust(12) + "".join(f"{name:>24}" for name in names))
    for number, one in measured.items():
        print(f"{number:<11}" + "".join(f"{one[name]:>24,.2f}" for name in names))


if __name__ == "__main__":
    run(main)
