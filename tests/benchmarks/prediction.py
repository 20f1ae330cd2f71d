"""`python -m tests.benchmarks.prediction`: photos per second of predicting from files, and the latency of one photo.

(p) `Predictor.probabilities` of files, as `maskcls.predict` calls it. (d) decoding and cropping the same files alone,
with one thread per core. (f) the models alone, on the same photos' pixels in memory, with as many threads of torch as
there are cores. Rounds of the three alternate.

The limit: on a CPU both parts use all cores, and each, alone, has them. No overlap can add a core, so a photo takes at
least as long as its parts take, 1/d + 1/f, and the limit is 1 / (1/d + 1/f). A ratio above 1 says that a part alone
left some core idle, which the other part then used. On a GPU the parts run on different devices, and the limit is the
slower part: min(d, f).

Also measured: the seconds of the whole command, `python -m maskcls.predict`, start included; and the latency of one
photo, from a file's bytes to probabilities in a process that has done it before, as the web page does
(`Predictor.at_once`).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from maskcls import cli
from maskcls.cli import run
from maskcls.data.decoding.decode import decode_bytes
from maskcls.data.demo.folder import draw
from maskcls.data.photos import read_photos
from maskcls.machine import resolve_device, set_threads
from maskcls.models.model import build_models
from maskcls.recipe import Recipe
from maskcls.serving.export import Trained, write_bundle
from maskcls.serving.predictor import Predictor
from maskcls.training.presets import resolve_weights
from tests.benchmarks.report import ROOT, summary, table, write

PREDICT, DECODE, FORWARD = "(p) predicting from files", "(d) decoding alone", "(f) the models alone"
RATIO = "p / limit"
DEMO_PEOPLE = 60


def main(
    data: cli.Data = None,
    weights: Annotated[str, typer.Option(help="hub, none, or a folder: no figure depends on them.")] = "none",
    backbone: Annotated[str, typer.Option(help="timm model name.")] = "resnet10t",
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    photos: Annotated[int, typer.Option(help="Training photos of the folder that are used, at most.")] = 1400,
    rounds: Annotated[
        int, typer.Option(help="Rounds of each of the three, alternating, after one that does not count.")
    ] = 7,
    latencies: Annotated[int, typer.Option(help="Number of single photos that are timed.")] = 200,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.", show_default="cores")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/prediction.json"),
) -> None:
    """Measure (p), (d), (f), the ratio of p and its limit, the whole command, and latency."""
    device, threads = resolve_device(device), threads or len(os.sched_getaffinity(0))
    set_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = read_photos(data or _drawn(place)).head(photos)["file"].tolist()
        bundle = new_bundle(place / "bundle", backbone, weights, image_size)
        predictor = Predictor(bundle, device)
        measured = alternate(predictor, files, rounds)
        whole_s = _whole_command(bundle, files, device, place)
        latency_s = [_latency(predictor, Path(files[at % len(files)])) for at in range(latencies + 1)][1:]
    limits = [limit(d, f, device) for d, f in zip(measured[DECODE], measured[FORWARD], strict=True)]
    ratios = [p / most for p, most in zip(measured[PREDICT], limits, strict=True)]
    results: dict[str, Any] = {name: summary(values) for name, values in {**measured, "limit": limits}.items()}
    print(table(results))
    print(f"{RATIO}: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, n = {rounds}")
    print(f"the whole command, {len(files):,} photos: {whole_s:.1f} s")
    print(f"one photo: {_latency_text(latency_s)}")
    results |= {
        RATIO: summary(ratios),
        "the whole command, s": summary([whole_s]),
        "latency, s": _latency_summary(latency_s),
    }
    about = {"photos": len(files), "image_size": image_size, "backbone": backbone, "threads": threads, "device": device}
    write(out, results, **about, data="demo faces" if data is None else data.name)


def limit(decoding: float, forward: float, device: str) -> float:
    """Photos per second that no way of joining the two parts can exceed; the module's docstring derives it."""
    return min(decoding, forward) if device.startswith("cuda") else 1 / (1 / decoding + 1 / forward)


def alternate(predictor: Predictor, files: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Photos per second of each part, round by round, after a round that does not count."""

    def decode() -> list[Any]:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(predictor.crops, files))

    (geometry,) = predictor.geometries
    pixels = {geometry: np.stack([crops[geometry].pixels for crops in decode()])}
    parts: dict[str, Callable[[], Any]] = {
        PREDICT: lambda: predictor.probabilities(files),
        DECODE: decode,
        FORWARD: lambda: predictor.engine.probabilities(pixels),
    }
    measured: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds + 1):
        for name, work in parts.items():
            began = perf_counter()
            work()
            measured[name].append(len(files) / (perf_counter() - began))
    return {name: values[1:] for name, values in measured.items()}


def _latency(predictor: Predictor, file: Path) -> float:
    content = file.read_bytes()
    began = perf_counter()
    predictor.at_once([predictor.crops(decode_bytes(content, file.name).rgb)])
    return perf_counter() - began


def _latency_summary(seconds: Sequence[float]) -> dict[str, Any]:
    return {**summary(seconds), "median": statistics.median(seconds), "p95": float(np.percentile(seconds, 95))}


def _latency_text(seconds: Sequence[float]) -> str:
    latency = _latency_summary(seconds)
    return f"median {1e3 * latency['median']:.1f} ms, 95th percentile {1e3 * latency['p95']:.1f} ms, n = {latency['n']}"


def _whole_command(bundle: Path, files: Sequence[str], device: str, place: Path) -> float:
    listed = place / "files.txt"
    listed.write_text("\n".join(files) + "\n")
    call = [
        sys.executable,
        "-m",
        "maskcls.predict",
        "--bundle",
        bundle,
        "--images",
        listed,
        "--out",
        place / "out.csv",
        "--device",
        device,
    ]
    began = perf_counter()
    done = subprocess.run([str(word) for word in call], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return perf_counter() - began


def _drawn(place: Path) -> Path:
    draw(place / "faces", DEMO_PEOPLE, seed=0)
    return place / "faces"


def new_bundle(folder: Path, backbone: str, weights: str, image_size: int) -> Path:
    """The bundle of a classifier that was never trained; it is as fast as one that was."""
    chosen = {
        "backbone": backbone,
        "weights": resolve_weights(weights, None),
        "image_size": image_size,
        "frozen_stages": 0,
    }
    recipe = Recipe().override(chosen)
    states = [model.state_dict() for model in build_models(recipe, pretrained=recipe.weights != "none")]
    write_bundle(folder, [Trained(recipe, states)], {}, data_digest="d" * 12, split_digest="5" * 12, seen_people=())
    return folder


if __name__ == "__main__":
    run(main)
