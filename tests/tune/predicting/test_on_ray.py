"""`maskcls predict --ray`: the same files as without Ray, whatever is unreadable, and whoever began."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from maskcls import predict
from maskcls.machine import set_threads
from maskcls.serving.predicting.unfinished import Block, Unfinished
from tests.commands import call
from tests.conftest import ROOT, DemoFaces
from tune.predicting.on_ray import BLOCK_PHOTOS, TASK_BLOCKS

RandomBundle = Callable[[str], Path]


@pytest.fixture(scope="module")
def drawn(demo_faces: DemoFaces) -> list[Path]:
    return sorted(file for file in demo_faces(6, 0).glob("train/images/*/*.*") if not file.name.startswith("."))


@pytest.fixture
def listed(drawn: Sequence[Path], tmp_path: Path) -> Path:
    """A list of five blocks of photos, the last of them not whole, some of which cannot be read."""
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "poem.jpg").write_bytes(b"Shall I compare thee")
    shutil.copy(drawn[0], tmp_path / "relative.jpg")
    names = [str(drawn[number % len(drawn)]) for number in range(4 * BLOCK_PHOTOS + 9)]
    names[3], names[70], names[71], names[-1] = "empty.jpg", "relative.jpg", "poem.jpg", "empty.jpg"
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return tmp_path / "list.txt"


@contextmanager
def heard(name: str) -> Iterator[io.StringIO]:
    """What is logged under a name, Ray Data's being set up before, as a caller of ours would listen to it."""
    import ray.data

    assert ray.data
    handler = logging.StreamHandler(io.StringIO())
    logging.getLogger(name).addHandler(handler)
    yield handler.stream
    logging.getLogger(name).removeHandler(handler)


@pytest.mark.usefixtures("ray_cluster")
def test_rays_workers_give_the_same_files_to_the_bit(
    random_bundle: RandomBundle, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    set_threads(1)  # here as in the workers, whatever tests before this one have set
    words = ("--bundle", random_bundle("three"), "--images", listed.name, "--probabilities", "--device", "cpu")
    plain = call(predict.main, *words, "--out", "plain.parquet")
    # Another call, without Ray, got as far as its first block.
    kept: list[Block] = []
    append = Unfinished.append

    def stopping(self: Unfinished, block: Block) -> None:
        append(self, block)
        kept.append(block)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "append", stopping)
        assert call(predict.main, *words, "--out", "ray.parquet").status == 130
    with heard("ray.data") as listener:
        by_ray = call(predict.main, *words, "--out", "ray.parquet", "--ray", "--resume")
    assert len(kept) == 1
    assert f"Going on behind the {BLOCK_PHOTOS} that are predicted." in by_ray.err
    assert plain.status == by_ray.status == 1
    assert "3 of 265 photos could not be read" in by_ray.err
    assert pq.read_table("ray.parquet").equals(pq.read_table("plain.parquet"))
    assert Path("ray.errors.csv").read_bytes() == Path("plain.errors.csv").read_bytes()
    assert "Registered dataset logger" in listener.getvalue(), "whom the caller has had listen"
    assert "dataset" not in by_ray.err.lower()


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_worker_says_is_said(random_bundle: RandomBundle, listed: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(random_bundle("three"), tmp_path / "spoilt"))
    next(spoilt.glob("model-*")).unlink()
    said = call(predict.main, "--bundle", spoilt, "--images", listed, "--out", tmp_path / "s.csv", "--ray")
    assert said.status == 1
    assert "A worker of Ray could not predict: " in said.err
    assert f"The bundle {spoilt} lacks model-" in said.err


def test_an_address_belongs_to_ray() -> None:
    said = call(predict.main, "--bundle", "b", "--images", "i", "--address", "auto")
    assert (said.status, said.err.splitlines()[-1]) == (2, "Error: --address belongs to --ray, which is not given.")


@pytest.mark.soak
def test_two_nodes_predict_the_same_as_this_process_and_a_third_may_die(
    random_bundle: RandomBundle, drawn: Sequence[Path], tmp_path: Path
) -> None:
    """In a process of its own, for this one may be connected to the tests' Ray."""
    files = [str(drawn[number % len(drawn)]) for number in range(9 * BLOCK_PHOTOS * TASK_BLOCKS)]
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in files))
    words = (random_bundle("three"), tmp_path / "list.txt")
    done = subprocess.run(
        [sys.executable, "-c", ON_NODES, *map(str, words)], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    # Between them Ray prints the last words of the node that died.
    said = [line for line in done.stdout.splitlines() if line.startswith(("2 ", "3 "))]
    assert said == ["2 True", "3 True"]


ON_NODES = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
from maskcls.machine import set_threads
from maskcls.serving.predictor import Predictor
from tests.benchmarks.predict_on_ray import predicted
from tune.runs.cluster import quiet
from pathlib import Path
quiet()
set_threads(1)
bundle, files = sys.argv[1], Path(sys.argv[2]).read_text().splitlines()
expected = Predictor(bundle, "cpu").probabilities(files)
for nodes, dies in ((2, False), (3, True)):
    found = predicted(Path(bundle), files, nodes, dies=dies)
    assert found.nodes >= 2
    print(nodes, np.array_equal(found.probabilities, expected), flush=True)
"""
