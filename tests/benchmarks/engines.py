"""`python -m tests.benchmarks.engines`: photos per second of a bundle's graph under ONNX Runtime, beside torch.

The same classifier, of random weights, and the same pixels in memory, in blocks of 64 photos and one photo at a time.
Rounds of the engines alternate, so that what else the machine does meets them alike, and the ratio of a round is of two
neighbours. All have one thread per core.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from maskcls.cli import run
from maskcls.data.geometry import Geometry
from maskcls.machine import set_threads, usable_cores
from maskcls.serving import onnx_export
from maskcls.serving.engine import Engine, Name, create_engine
from maskcls.serving.predictor import Predictor
from tests.benchmarks.prediction import new_bundle
from tests.benchmarks.report import summary, table, write


def main(
    backbone: Annotated[str, typer.Option(help="timm model name.")] = "resnet10t",
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    blocks: Annotated[int, typer.Option(help="Blocks of 64 photos per measurement.")] = 2,
    singles: Annotated[int, typer.Option(help="Photos per measurement that are predicted one at a time.")] = 30,
    rounds: Annotated[int, typer.Option(help="Rounds of all engines, after one that does not count.")] = 7,
    int8: Annotated[bool, typer.Option(help="Measure the 8-bit variant as well.")] = False,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/engines.json"),
) -> None:
    """Measure the engines, and the ratio of each to torch."""
    set_threads(usable_cores())
    with tempfile.TemporaryDirectory() as folder:
        bundle = new_bundle(Path(folder) / "bundle", backbone, "none", image_size)
        _export(bundle, Path(folder), int8=int8)
        loaded = Predictor(bundle, "cpu").bundle
        engines = {name: create_engine(loaded, name, "cpu", flip=False) for name in _names(int8=int8)}
        pixels = np.random.default_rng(0).integers(0, 256, (64 * blocks, image_size, image_size, 3), np.uint8)
        geometry = loaded.classifiers[0].geometry
        together = alternate(engines, {geometry: pixels}, 64, rounds)
        alone = alternate(engines, {geometry: pixels[:singles]}, 1, rounds)
    results: dict[str, Any] = {}
    for what, measured in (("blocks of 64", together), ("one at a time", alone)):
        results |= {f"{name}, {what}": summary(rates) for name, rates in measured.items()}
    print(table(results))
    for what, measured in (("blocks of 64", together), ("one at a time", alone)):
        for name in list(engines)[1:]:
            ratios = [one / base for one, base in zip(measured[name], measured[Name.TORCH], strict=True)]
            results[f"{name} / torch, {what}"] = summary(ratios)
            print(
                f"{name} / torch, {what}: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to "
                f"{max(ratios):.2f}, n = {rounds}"
            )
    write(
        out, results, backbone=backbone, image_size=image_size, blocks=blocks, singles=singles, threads=usable_cores()
    )


def alternate(
    engines: dict[str, Engine], pixels: dict[Geometry, NDArray[np.uint8]], block_photos: int, rounds: int
) -> dict[str, list[float]]:
    """Photos per second of each engine, round by round, after a round that does not count."""
    photos = len(next(iter(pixels.values())))
    measured: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for name, engine in engines.items():
            began = perf_counter()
            engine.probabilities(pixels, block_photos)
            measured[name].append(photos / (perf_counter() - began))
    return {name: rates[1:] for name, rates in measured.items()}


def _names(*, int8: bool) -> list[str]:
    return [str(name) for name in (Name.TORCH, Name.ONNX, Name.INT8)[: 3 if int8 else 2]]


def _export(bundle: Path, folder: Path, *, int8: bool) -> None:
    """Add the graphs, compared on a few photos of noise."""
    files = []
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (80, 60, 3), np.uint8)
        file = folder / f"{number}.png"
        file.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
        files.append(str(file))
    onnx_export.LARGEST_FALL = 2.0  # of a classifier that was never trained F1 says nothing
    onnx_export.export_onnx(bundle, files, np.arange(len(files)), int8_files=files if int8 else ())


if __name__ == "__main__":
    run(main)
