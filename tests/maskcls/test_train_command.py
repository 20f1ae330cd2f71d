"""`python -m maskcls.train`, as its user calls it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maskcls.machine import set_threads
from maskcls.serving.bundle import read_bundle
from maskcls.train import main
from tests.commands import Said, call
from tests.conftest import DemoFaces

SMALL = [
    "--scale",
    "cpu",
    "--image-size",
    "32",
    "--epochs",
    "3",
    "--set",
    "head_width=8",
    "--set",
    "batch_size=64",
    "--set",
    "backbone=test_resnet",
    "--weights",
    "none",
]


@pytest.fixture(scope="module")
def faces(demo_faces: DemoFaces) -> Path:
    return demo_faces(36, 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "maskcls.train", *map(str, words)]


def train(*words: str | Path, status: int = 0) -> Said:
    said = call(main, *words)
    assert said.status == status, said.out + said.err
    return said


@pytest.mark.soak
def test_a_killed_run_goes_on_when_the_same_command_is_given_again(faces: Path, cache: Path, tmp_path: Path) -> None:
    set_threads(1)  # here and in the process to come, whatever tests before this one have set
    words: list[str | Path] = ["--data", faces, "--cache", cache, *SMALL, "--out"]
    unbroken = train(*words, tmp_path / "unbroken").out
    with subprocess.Popen(command(*words, tmp_path / "killed"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                process.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "killed").exists()
    again = train(*words, tmp_path / "killed").out
    assert "Going on after epoch " in again
    scores = [
        line.partition(" photos/s")[0].rpartition(",")[0]
        for text in (unbroken, again)
        for line in text.splitlines()
        if "epoch 3/3" in line
    ]
    assert len(scores) == 2
    assert scores[0] == scores[1]
    bundles = [read_bundle(tmp_path / name) for name in ("unbroken", "killed")]
    weights = [[entry["sha256"] for entry in bundle.manifest["classifiers"][0]["models"]] for bundle in bundles]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob(".*state"))


@pytest.mark.slow
def test_the_bundle_says_what_it_is(faces: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    said = train(
        "--data", faces, "--cache", cache, *SMALL, "--set", "task_split=three", "--seed", "5", "--out", out
    ).out
    assert f"python -m maskcls.predict --bundle {out}" in said
    manifest = json.loads((out / "bundle.json").read_text())
    (classifier,) = manifest["classifiers"]
    recipe = classifier["recipe"]
    assert (classifier["weight"], recipe["task_split"], recipe["seed"], recipe["image_size"]) == (1.0, "three", 5, 32)
    assert len(classifier["models"]) == 3
    assert 0 <= manifest["scores"]["validation"]["f1"] <= 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--set", "epoch=3"], 2, "no key 'epoch'. Did you mean epochs?"),
        (["--set", "task_split=four"], 2, "There is no task split 'four'. Task splits: single, five_binary"),
        (["--set", "loss=f1"], 2, "loss: Input should be 'cross_entropy', 'focal' or 'soft_f1', but got 'f1'."),
        (
            ["--preset", "contest-2021", "--set", "members.age3.lr_head=1"],
            2,
            "task split single has no such member. Members: classes. It is one of three, shared_heads",
        ),
        (
            ["--preset", "contest-2021", "--set", "ages_left_out=60-99"],
            2,
            "leave nobody to train classes on who is 'worn, male, over 59'. The training people are",
        ),
        (["--set", "frozen_stages=6"], 2, "frozen_stages: Input should be less than or equal to 5, but got 6."),
        (["--set", "backbone=resnet_10t"], 2, "timm does not know the backbone 'resnet_10t'. Close: "),
        (
            ["--preset", "contest-2022"],
            2,
            "There is no preset 'contest-2022'. Presets: contest-2021, fine-tune, ",
        ),
        (["--scale", "tpu"], 2, "There is no scale 'tpu'. Scales: auto, gpu, cpu."),
        (["--device", "cuda:99"], 2, "--device cuda:99 cannot be used: "),
        (["--weights", "/no/such/folder"], 2, "--weights /no/such/folder: there is no such folder."),
        (["--weights", "hub"], 1, "The weights of resnet10t are out of reach: the hub does not answer"),
        (["--image-size", "big"], 2, "Invalid value for '--image-size'"),
        (["--data", "/no/such/folder"], 2, "/no/such/folder does not exist"),
    ],
)
def test_wrong_calls_get_one_message_and_leave_nothing(
    faces: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    status: int,
    message: str,
) -> None:
    data: list[str | Path] = [] if "--data" in words else ["--data", faces]
    weights = [] if "--weights" in words else ["--weights", "none"]
    small = ["--scale", "cpu"] if "--scale" not in words else []
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    done = train(*data, *weights, *small, "--cache", cache, *words, "--out", tmp_path / "out", status=status)
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    assert "exists and is no bundle" in train("--data", faces, "--out", tmp_path / "out", status=2).err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


@pytest.mark.soak
@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        (signal.SIGTERM, 143, "Terminated"),
        (signal.SIGHUP, 129, "The terminal was closed"),
    ],
)
def test_signals_are_no_traceback(
    number: int, status: int, message: str, faces: Path, cache: Path, tmp_path: Path
) -> None:
    words: list[str | Path] = ["--data", faces, "--cache", cache, *SMALL, "--out", tmp_path / "out"]
    with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "Recipe" in process.stdout.readline()
        assert "epoch 1/3" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == status
        said = process.stderr.read()
    assert "What is done is kept in" in said
    assert said.endswith(f"\n{message}.\n")
    assert "Traceback" not in said
