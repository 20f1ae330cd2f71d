"""`python -m tests.benchmarks.serving`: photos per second and latencies of the service, beside what the machine allows.

(s) `maskcls serve`, with batches and without (`--batch 1`), and with --ray the application of deploy/serve.yaml under
Ray Serve with one replica per core, each asked by 1, 8 and 64 clients that send drawn faces as JPEG without a pause
(tests/benchmarks/load.py). (d) decoding and cropping the same files alone, with one thread per core. (f) the models
alone in batches of 16, on the same photos' pixels in memory, with as many threads of torch as there are cores. Rounds
alternate all of them, and a ratio is of one round.

The limit is that of tests/benchmarks/prediction.py: on a CPU 1 / (1/d + 1/f), since both parts use all cores; on a GPU
min(d, f). HTTP, the event loop and the clients themselves run on the same cores and are not in the limit; the cores
that the clients took are printed. Nobody looks for faces (`--no-face-check`), as in the limit.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

from maskcls.cli import run
from maskcls.data.decoding.decode import decode_bytes
from maskcls.data.demo.folder import draw
from maskcls.data.photos import read_photos
from maskcls.machine import resolve_device, set_threads, usable_cores
from maskcls.serving.predictor import Predictor
from tests.benchmarks.load import Load, measure
from tests.benchmarks.prediction import limit, new_bundle
from tests.benchmarks.report import summary, table, write
from tests.maskcls.serving.web.process import serving
from tests.tune.serving.under_ray import ray_with_serve

DECODE, FORWARD, LIMIT = "(d) decoding alone", "(f) the models alone", "limit"
BATCH = 16
PEOPLE = 30
CLIENTS = (1, 8, 64)


def main(
    backbone: Annotated[str, typer.Option(help="timm model name.")] = "resnet10t",
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="After one that does not count.")] = 5,
    ray: Annotated[bool, typer.Option(help="Measure Ray Serve as well.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/serving.json"),
) -> None:
    """Measure the service, its parts, and the ratio of its rate and the limit."""
    device = resolve_device(device)
    set_threads(usable_cores())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        draw(place / "faces", PEOPLE, seed=0)
        files = [Path(file) for file in read_photos(place / "faces")["file"]]
        bundle = new_bundle(place / "bundle", backbone, "none", image_size)
        urls = {
            name: stack.enter_context(serving(bundle, "--device", device, "--batch", batch, "--no-face-check")).url
            for name, batch in {"batches": BATCH, "one by one": 1}.items()
        }
        if ray:
            urls["Ray Serve"] = stack.enter_context(under_ray(bundle, device))
        predictor = Predictor(bundle, device)
        parts, loads = alternate(predictor, files, urls, seconds, rounds)
    results = parts | {LIMIT: [limit(d, f, device) for d, f in zip(parts[DECODE], parts[FORWARD], strict=True)]}
    report(results, loads)
    record = {
        **{name: summary(values) for name, values in results.items()},
        **{name: [vars(each) for each in of_rounds] for name, of_rounds in loads.items()},
    }
    write(out, record, photos=len(files), image_size=image_size, backbone=backbone, device=device, seconds=seconds)


@contextmanager
def under_ray(bundle: Path, device: str) -> Iterator[str]:
    """deploy/serve.yaml with one replica per core, or per half a GPU: its address."""
    cores = usable_cores()
    shares = {"num_cpus": 1, "num_gpus": 0 if device == "cpu" else 1 / cores}
    with ray_with_serve() as service:
        service.deploy(
            bundle,
            args={"device": device, "face_check": False},
            autoscaling_config={"min_replicas": cores, "max_replicas": cores},
            ray_actor_options=shares,
        )
        yield service.url


def alternate(
    predictor: Predictor, files: Sequence[Path], urls: Mapping[str, str], seconds: float, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[Load]]]:
    """Photos per second of each part, and what clients saw of each service, round by round."""
    contents = [file.read_bytes() for file in files]

    def cropped(content: bytes) -> Any:
        return predictor.crops(decode_bytes(content, "The photo").rgb)

    def decode() -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(cropped, contents))

    crops = [cropped(content) for content in contents]

    def forward() -> None:
        for first in range(0, len(crops), BATCH):
            predictor.at_once(crops[first : first + BATCH])

    parts: dict[str, list[float]] = {DECODE: [], FORWARD: []}
    loads: dict[str, list[Load]] = {f"{name}, {clients}": [] for name in urls for clients in CLIENTS}
    for _ in range(rounds + 1):
        for name, work in ((DECODE, decode), (FORWARD, forward)):
            began, done = perf_counter(), 0
            while perf_counter() - began < seconds / 2:
                work()
                done += len(files)
            parts[name].append(done / (perf_counter() - began))
        for name, url in urls.items():
            for clients in CLIENTS:
                loads[f"{name}, {clients}"].append(measure(url, files, clients, seconds))
    return {name: rates[1:] for name, rates in parts.items()}, {name: of[1:] for name, of in loads.items()}


def report(parts: Mapping[str, Sequence[float]], loads: Mapping[str, Sequence[Load]]) -> None:
    """Print a table of the rates, and for each service its ratio to the limit, its latencies and its failures."""
    rates = {**parts, **{f"{name} clients": [each.per_second for each in of] for name, of in loads.items()}}
    print(table({name: summary(values) for name, values in rates.items()}))
    for name, of_rounds in loads.items():
        ratios = [each.per_second / most for each, most in zip(of_rounds, parts[LIMIT], strict=True)]
        p50, p99 = (1e3 * statistics.median(each.percentile_s(share) for each in of_rounds) for share in (50, 99))
        failed = sum(sum(each.failed.values()) for each in of_rounds)
        cores = statistics.median(each.cpu_s / each.seconds for each in of_rounds)
        print(
            f"{name} clients: / limit median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}, "
            f"n = {len(ratios)}; p50 {p50:.1f} ms, p99 {p99:.1f} ms; failed {failed}; clients took {cores:.2f} cores"
        )


if __name__ == "__main__":
    run(main)
