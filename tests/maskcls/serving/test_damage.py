"""Every file of a bundle, and of what a call of predict keeps, damaged at random: whoever reads it goes on or says what
is wrong, and nobody is answered by damaged weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maskcls.serving.bundle import read_bundle
from maskcls.serving.export import note_scores
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.onnx_engine import OnnxEngine
from maskcls.serving.predicting.unfinished import Block, Unfinished, folder_of
from maskcls.serving.predictor import Predictor
from maskcls.serving.web.limits import Limits
from maskcls.serving.web.service import Service
from tests.damaging import DAMAGE, damage, refused_or_done

PHOTO = np.full((40, 40, 3), 100, np.uint8)
CALL = {"bundle": "0" * 12, "--tta": False}
FILES = ("bundle.json", "model-*.safetensors")
KEPT = ("call.json", "probabilities.bin", "blocks.jsonl")
UNDISTURBED = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)


def predicts(bundle: Path) -> None:
    found = Predictor(bundle, "cpu").probabilities([PHOTO])
    assert np.isfinite(found).all()


def serves(bundle: Path) -> None:
    Service(Predictor(bundle, "cpu"), Limits(), face_check=False).close()


def describes(bundle: Path) -> None:
    """As the report, an ensemble and the count of the holdout's uses do."""
    found = read_bundle(bundle, with_models=False)
    bundle_digest(found.manifest)
    assert not found.has_seen("nobody")
    note_scores(bundle, {"holdout": {"f1": 0.5}})


def loads_the_graph(bundle: Path) -> None:
    OnnxEngine(read_bundle(bundle, with_models=False))


READERS: tuple[Callable[[Path], None], ...] = (describes, loads_the_graph, predicts, serves)


def check(bundle: Path, pattern: str, how: tuple[str, int], reader: int) -> None:
    """Damage one file of a copy of the bundle, and let one reader read it."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(bundle, Path(place) / "bundle"))
        damage(next(copy.glob(pattern)), how)
        with refused_or_done():
            READERS[reader](copy)


CASES = {"pattern": st.sampled_from(FILES), "how": DAMAGE, "reader": st.integers(0, len(READERS) - 1)}


@given(**CASES)
@example("model-*.safetensors", ("a bit flipped", 0), 2)
@settings(max_examples=25, deadline=None, suppress_health_check=UNDISTURBED, derandomize=True)
def test_a_damaged_bundle_costs_a_message(
    random_bundle: Callable[[str], Path], pattern: str, how: tuple[str, int], reader: int
) -> None:
    check(random_bundle("single"), pattern, how, reader)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@given(**CASES)
@settings(max_examples=500, deadline=None, suppress_health_check=UNDISTURBED)
def test_five_hundred_damaged_bundles_cost_a_message_each(
    random_bundle: Callable[[str], Path], pattern: str, how: tuple[str, int], reader: int
) -> None:
    check(random_bundle("single"), pattern, how, reader)


def blocks(number: int) -> list[Block]:
    generator = np.random.default_rng(0)
    rows = generator.dirichlet(np.ones(18), (number, 4))
    return [Block(4 * n, one, {4 * n: "bad"}, 0, (1, None, 0, 2)) for n, one in enumerate(rows)]


@given(name=st.sampled_from(KEPT), how=DAMAGE)
@settings(max_examples=25, deadline=None, suppress_health_check=UNDISTURBED, derandomize=True)
def test_what_an_interrupted_call_kept_is_right_or_predicted_again(name: str, how: tuple[str, int]) -> None:
    with tempfile.TemporaryDirectory() as place:
        out, whole = Path(place) / "answers.csv", blocks(3)
        interrupted = Unfinished(out, CALL, resume=False)
        for block in whole:
            interrupted.append(block)
        interrupted.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        damage(folder_of(out) / name, how)
        with refused_or_done(), Unfinished(out, CALL, resume=True) as kept:
            assert kept.done in (0, 4, 8, 12)
            for block in whole[kept.done // 4 :]:
                kept.append(block)
            found = np.concatenate([block.probabilities for block in kept.read(5)])
            assert np.array_equal(found, np.concatenate([block.probabilities for block in whole]))
