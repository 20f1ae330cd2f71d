"""What tests of several packages share: drawn faces, a Ray of two cores, and small classifiers with random weights as
bundles."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hypothesis
import pytest
from filelock import FileLock

from tests.s3 import KEYS, S3

if TYPE_CHECKING:
    from maskcls.serving.export import Trained
    from maskcls.storage.store import Store

ROOT = Path(__file__).parents[1]
TINY_BACKBONE = ROOT / "tests" / "legacy" / "plugin"
"""Whoever has this folder on its PYTHONPATH knows the backbone of the kept runs."""
PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
if PARALLEL:
    # Each worker has one core, and so has every process that it starts: threads that wait for a core spin and slow the
    # other worker.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A test that uses Ray without `ray_cluster` is to fail, alone as well: Ray would start another one by itself, in which
# the tests after it fail.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
LONGEST = (
    "cluster/test_storage.py",
    "cluster/test_losing.py",
    "cluster/test_real_fit.py",
    "cluster/test_way_in.py",
    "test_readme.py",
    "tune/search/test_begin_or_resume.py",
    "tune/search/test_driver.py",
    "tune/compare/test_begin_or_resume.py",
    "tune/search/test_events.py",
    "maskcls/serving/web/test_page.py",
    "tune/test_ensemble.py",
    "tune/fitting/test_out_of_memory.py",
    "tune/api/test_call.py",
    "maskcls/training/test_frozen.py",
    "tune/search/test_kill.py",
    "tune/search/test_budget_run.py",
    "tune/fitting/test_pool.py",
    "legacy/test_made_before.py",
    "maskcls/training/test_micro_batch.py",
    "maskcls/serving/test_predictor.py",
    "maskcls/reports/explore/test_report.py",
    "tune/report/test_how_good.py",
    "maskcls/training/test_fit.py",
    "maskcls/serving/test_onnx.py",
    "tune/runs/test_cluster.py",
    "tune/compare/test_command.py",
    "maskcls/test_train_command.py",
    "tune/search/test_no_repeats.py",
    "tune/fitting/test_gauges.py",
    "maskcls/serving/test_bundle.py",
    "tune/contracts/test_ray.py",
    "maskcls/data/faces/test_yunet.py",
)
"""Files that take a quarter of a minute and more. They begin first, so that no worker is left alone at the end."""
# Tests assert results, not times: on a busy machine an example may take long.
hypothesis.settings.register_profile(
    "at any speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("at any speed")
FEW_WORKERS = {"RAY_num_workers_soft_limit": "4", "RAY_prestart_worker_first_driver": "0"}
"""How the tests' Ray treats its workers: up to four that have nothing to do stay, for a fit in a new one begins with
seconds of imports; none is started before it has work."""
DemoFaces = Callable[[int, int], Path]
DEMO_CACHE_PEOPLE = 90
TRAIN_PEOPLE = ("000001_male_Asian_25", "000002_male_Asian_45")


class Ensemble(NamedTuple):
    """An ensemble's bundle, and for each of its classifiers its weight and a bundle of that one alone."""

    folder: Path
    weights: tuple[float, ...]
    alone: tuple[Path, ...]


NOBODY = 65534


@dataclasses.dataclass
class _Ray:
    """The Ray of the tests in this process: files that use it come first, and it stays between them."""

    users: set[Path] = dataclasses.field(default_factory=set)
    address: str | None = None

    def start(self) -> str:
        if self.address is None:
            from tune.runs import cluster
            from tune.runs.local_ray.loopback import on_loopback
            from tune.runs.local_ray.place import find_place

            cluster.quiet()
            os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, TINY_BACKBONE)))
            import ray

            place = find_place().settings
            with pytest.MonkeyPatch.context() as patch:  # Ray leaves variables of its own, which other processes need
                for name, value in (FEW_WORKERS | KEYS).items():
                    patch.setenv(name, value)
                with on_loopback():
                    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", **place)
            self.address = str(ray.get_runtime_context().gcs_address)
        return self.address

    def stop(self) -> None:
        if self.address is not None:
            import ray

            ray.shutdown()
            self.address = None


_ray = _Ray()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that use Ray first, and among these and the others the longest; all else keeps its order."""
    _ray.users |= {item.path for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path not in _ray.users, places.get(item.path, len(places))))


def pytest_collection_finish() -> None:
    """Keep the garbage collector away from what was imported, which stays: it takes a twentieth of the time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop Ray before a file that does not use it: its processes take a tenth of a core even where they do nothing."""
    yield
    if nextitem is None or nextitem.path not in _ray.users:
        _ray.stop()


@pytest.fixture(autouse=True)
def _logger_stays_as_it_is() -> Iterator[None]:
    """A test that leaves the package's logger or a handler of all loggers (caplog's is one) changed fails itself, and
    not one that looks at what is logged later."""
    before = _logger()
    yield
    assert _logger() == before


def _logger() -> tuple[object, ...]:
    logger = logging.getLogger("maskcls")
    levels = [handler.level for handler in logging.root.handlers]
    return logger.disabled, logger.level, logger.propagate, logging.root.manager.disable, levels


def _shared(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this run of pytest see."""
    folder = factory.getbasetemp().parent if PARALLEL else factory.getbasetemp()
    (folder / "shared").mkdir(exist_ok=True)
    return folder / "shared"


@pytest.fixture(scope="session")
def demo_faces(tmp_path_factory: pytest.TempPathFactory) -> DemoFaces:
    """demo_faces(persons, seed) -> a contest folder, drawn once for all tests and workers; copy it to change it."""
    from maskcls.data.demo.folder import draw

    def drawn(persons: int, seed: int) -> Path:
        folder = _shared(tmp_path_factory) / f"faces-{persons}-{seed}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                draw(folder, persons, seed)
        return folder

    return drawn


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for --cache that holds the demo faces: drawn once for all workers, decoded once for each.

    In place of the demo's people there are fewer, so that searches and fits in tests are short.
    """
    from maskcls.data.dataset import DEMO_SEED, demo_place
    from maskcls.data.demo.folder import draw

    shared = _shared(tmp_path_factory) / "demo"
    with FileLock(f"{shared}.lock"):
        if not (place := demo_place(shared)).exists():
            draw(place, DEMO_CACHE_PEOPLE, DEMO_SEED)
    return Path(shutil.copytree(shared, tmp_path_factory.mktemp("cache"), dirs_exist_ok=True))


@pytest.fixture(scope="session")
def few_faces(demo_faces: DemoFaces, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The options that point a command at 24 drawn people with random weights, and last at a cache: seconds a search,
    where all demo faces take minutes."""
    cache = tmp_path_factory.mktemp("few")
    return ("--data", str(demo_faces(24, 4)), "--weights", "none", "--cache", str(cache))


@pytest.fixture(scope="module")
def ray_cluster() -> str:
    """A Ray of two cores, whose workers find the tests' objectives; its address, which other processes may join."""
    return _ray.start()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """An S3 on loopback with a bucket, and its keys in the environment."""
    pytest.importorskip("moto")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        server = S3()
        try:
            from pyarrow.fs import FileSystem

            system, bucket = FileSystem.from_uri(f"{server.address()}&allow_bucket_creation=true")
            system.create_dir(bucket.rstrip("/"))
            yield server
        finally:
            server.close()


@pytest.fixture
def s3(s3_server: S3) -> S3:
    """The same without faults, and no request remembered."""
    s3_server.faults.clear()
    s3_server.requests.clear()
    s3_server.latency_s = 0.0
    return s3_server


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty place in a storage of each kind."""
    from maskcls.storage.store import Store

    if request.param == "folder":
        return Store(str(tmp_path / "storage"), patience_s=5)
    s3: S3 = request.getfixturevalue("s3")
    return Store(s3.address(tmp_path.name), patience_s=5)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user who is not root, and to whom permissions mean something; the test is run as that user."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        else:
            subprocess.run(["chmod", "-R", "u+rwX", folder], check=True)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """random_bundle(task_split) -> its folder, the same for all who ask; copy it to spoil it.

    It "trained" on TRAIN_PEOPLE.
    """

    @cache
    def make(task_split: str) -> Path:
        return new_bundle(tmp_path_factory.mktemp("bundles") / task_split, random_classifier(task_split))

    return make


@pytest.fixture(scope="session")
def random_ensemble(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Three classifiers of different task splits, the last of another image size and join. Copy it to spoil it."""
    folder, weights = tmp_path_factory.mktemp("ensemble"), (0.5, 0.3, 0.2)
    of_each = (
        {"task_split": "single"},
        {"task_split": "three", "seed": 1},
        {"task_split": "advised", "image_size": 96, "join": "hard"},
    )
    alone = [random_classifier(**recipe) for recipe in of_each]  # type: ignore[arg-type]
    together = [dataclasses.replace(trained, weight=weight) for trained, weight in zip(alone, weights, strict=True)]
    singles = tuple(new_bundle(folder / f"alone-{number}", trained) for number, trained in enumerate(alone))
    return Ensemble(new_bundle(folder / "ensemble", *together), weights, singles)


def random_classifier(task_split: str, *, weight: float = 1.0, **recipe: object) -> Trained:
    """A small classifier with random weights, whose heads tell photos apart."""
    import torch

    from maskcls.models.model import build_models
    from maskcls.recipe import Recipe
    from maskcls.serving.export import Trained

    small = {"backbone": "mobilenetv3_small_050", "weights": "none", "image_size": 64, "frozen_stages": 0}
    made = Recipe().override({**small, "task_split": task_split, **recipe})
    models = build_models(made, pretrained=False)
    for number, head in enumerate(
        head for model in models for head in model.heads.values()
    ):  # a fresh head hardly tells photos apart
        *_, last = head.modules()
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.normal_(last.weight, std=1.0, generator=torch.Generator().manual_seed(number))
    return Trained(made, [model.state_dict() for model in models], weight)


def new_bundle(folder: Path, *classifiers: Trained) -> Path:
    """Write classifiers as a bundle that "trained" on TRAIN_PEOPLE."""
    from maskcls.serving.export import write_bundle

    write_bundle(
        folder,
        classifiers,
        {"validation": {"f1": 0.5}},
        data_digest="d" * 12,
        split_digest="5" * 12,
        seen_people=TRAIN_PEOPLE,
    )
    return folder
