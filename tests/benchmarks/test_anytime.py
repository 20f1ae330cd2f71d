"""The benchmark of F1 against time keeps what it measured, scores as scikit-learn does, and runs every side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.demo.folder import ANSWERS
from maskcls.errors import CallError
from tests.benchmarks import anytime
from tests.benchmarks.anytime import Asked, Scored
from tests.commands import call
from tests.conftest import DemoFaces

ASKED = Asked(Path("faces"), "none", (1.0, 2.0), 1, 32, "freezing", (), "")


def test_the_score_is_the_macro_f1_of_all_photos() -> None:
    from sklearn.metrics import f1_score

    generator = np.random.default_rng(0)
    truth = {f"{n}.jpg": int(generator.integers(18)) for n in range(300)}
    found = {name: one if generator.random() < 0.6 else 3 for name, one in reversed(truth.items())}
    names = list(truth)
    expected = f1_score([truth[name] for name in names], [found[name] for name in names], average="macro")
    assert anytime.f1_of(found, truth) == pytest.approx(expected)


def test_a_side_is_measured_once_under_the_same_settings(tmp_path: Path) -> None:
    asked = []

    def side(what: Asked, number: int, there: Path) -> list[Scored]:
        asked.append((what, number))
        return [Scored(1.5, {"a": 0, "b": 1}, {"name": "one"}), Scored(1.5, {"a": 0, "b": 1})]

    file, truth = tmp_path / "kept" / "round-3-side.json", {"a": 0, "b": 1}
    first = anytime.measured(file, side, ASKED, 3, truth)
    assert first == [[1.5, 1.0]] * 2
    assert json.loads(file.read_text())["records"] == [{"name": "one"}]
    assert anytime.measured(file, side, ASKED, 3, truth) == first
    assert asked == [(ASKED, 3)]
    other = ASKED._replace(epochs=2)
    anytime.measured(file, side, other, 3, truth)
    assert asked == [(ASKED, 3), (other, 3)]


def test_the_table_has_mean_and_spread_of_each_time(tmp_path: Path) -> None:
    rounds = [("ours", [[5.0, 0.5], [10.2, 0.6]]), ("theirs", [[5.0, 0.4]]), ("ours", [[5.2, 0.7], [10.4, 0.8]])]
    found = anytime.summarised(rounds)
    assert anytime.table(found).splitlines()[2:] == [
        "| ours | 5.1 | 0.600 +- 0.141 | 2 |",
        "| ours | 10.3 | 0.700 +- 0.141 | 2 |",
        "| theirs | 5.0 | 0.400 | 1 |",
    ]
    anytime.draw_picture(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "faces"], "--data and --answers belong together"),
        (["--side", "AutoGluon"], "The side AutoGluon needs --autogluon and --weights."),
        (
            ["--side", "luck"],
            "--side is one of maskcls, plain Ray Tune, random search, AutoGluon, random from our start, but got luck.",
        ),
    ],
)
def test_a_wrong_call_is_refused(words: list[str], message: str) -> None:
    said = call(anytime.main, *words)
    assert said.status == CallError.exit_status
    assert message in said.err


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_side_is_scored(tmp_path: Path, demo_faces: DemoFaces) -> None:
    faces = demo_faces(60, 3)
    words = ["--data", faces, "--answers", faces / ANSWERS, "--minutes", 1.5, "--minutes", 2, "--rounds", 1]
    words += ["--image-size", 32, "--set", "backbone=test_resnet", "--epochs", 2, "--out", tmp_path / "out"]
    said = call(anytime.main, *words)
    assert said.status == 0, said.err
    found = json.loads((tmp_path / "out" / "anytime.json").read_text())
    assert found["results"].keys() == anytime.SIDES.keys() - {anytime.AUTOGLUON}
    assert all(0 <= f1["mean"] <= 1 for side in found["results"].values() for f1 in side["f1"])
