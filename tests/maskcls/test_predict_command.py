from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskcls import predict
from maskcls.data.decoding.decode import decode
from maskcls.serving.predicting.unfinished import Block, Unfinished
from tests.commands import call
from tests.conftest import DemoFaces

RandomBundle = Callable[[str], Path]
NAMES = ("b2.jpg", "a1.jpg", "c3.jpg", "0d.jpg")


def command(*arguments: object) -> int:
    """`python -m maskcls.predict` in this process -> its exit status; what it says is printed here."""
    said = call(predict.main, *arguments)
    print(said.out, end="")
    print(said.err, end="", file=sys.stderr)
    return said.status


@pytest.fixture
def evaluation_folder(tmp_path: Path) -> Path:
    """The contest's eval/: info.csv in no order, and images/."""
    folder = tmp_path / "eval"
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        noise = np.random.default_rng(number).integers(0, 256, (80, 60, 3), np.uint8)
        (folder / "images" / name).write_bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    (folder / "info.csv").write_text("ImageID,ans\n" + "".join(f"{name},0\n" for name in NAMES))
    return folder


@pytest.mark.parametrize("images", ["eval", "eval/info.csv"])
def test_a_submission_has_info_csvs_columns_rows_and_order(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path, images: str
) -> None:
    out = tmp_path / "submission.csv"
    assert (
        command("--bundle", random_bundle("three"), "--images", tmp_path / images, "--out", out, "--device", "cpu") == 0
    )
    heading, *rows = out.read_text().splitlines()
    assert heading == "ImageID,ans"
    assert [row.split(",")[0] for row in rows] == list(NAMES)
    assert all(0 <= int(row.split(",")[1]) < 18 for row in rows)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["eval", "submission.csv"]


def test_a_folder_gives_relative_paths_and_probabilities_that_bear_the_answer_out(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path
) -> None:
    (evaluation_folder / "info.csv").unlink()
    out = tmp_path / "s.csv"
    assert (
        command("--bundle", random_bundle("single"), "--images", evaluation_folder, "--out", out, "--probabilities")
        == 0
    )
    answers = [row.split(",") for row in out.read_text().splitlines()[1:]]
    assert [image for image, _ in answers] == sorted(f"images/{name}" for name in NAMES)
    table = [row.split(",") for row in (tmp_path / "s.probabilities.csv").read_text().splitlines()[1:]]
    for (image, answer), (image_too, *numbers) in zip(answers, table, strict=True):
        probabilities = numbers[:18]  # behind them those of mask, gender and age group
        assert image == image_too
        assert len(numbers) == 18 + 8
        assert int(answer) == np.argmax([float(p) for p in probabilities])
        assert sum(map(float, probabilities)) == pytest.approx(1, abs=1e-4)


def test_unreadable_photos_are_listed_and_the_others_predicted(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES[1:3]:
        (evaluation_folder / "images" / name).write_bytes(b"")
    out = tmp_path / "s.csv"
    call = ("--bundle", random_bundle("single"), "--images", evaluation_folder, "--out", out)
    listed, said = (
        tmp_path / "s.errors.csv",
        f"2 of 4 photos could not be read; their answer is class 0, and {tmp_path}",
    )
    for more, status in (((), 1), (("--skip-bad",), 0)):
        out.unlink(missing_ok=True)
        assert command(*call, *more) == status
        rows = out.read_text().splitlines()
        assert rows[2:4] == ["a1.jpg,0", "c3.jpg,0"]
        assert len(rows) == 5
        error = capsys.readouterr().err
        assert said in error
        assert ("Mend them, or accept it with --skip-bad." in error) == (status == 1)
        assert "a1.jpg is empty" in error
        assert "c3.jpg is empty" in error
        first, *errors = listed.read_text().splitlines()
        assert first == "ImageID,error"
        assert [error.partition(",")[0] for error in errors] == ["a1.jpg", "c3.jpg"]
        assert "c3.jpg is empty (0 bytes)" in errors[1]
    for name in NAMES[1:3]:
        shutil.copy(evaluation_folder / "images" / NAMES[0], evaluation_folder / "images" / name)
    assert command(*call) == 0
    assert not listed.exists(), "it would speak of an earlier call"


def test_faces_are_counted_and_several_are_said(
    random_bundle: RandomBundle, demo_faces: DemoFaces, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = decode(min(demo_faces(6, 0).glob("train/images/*/normal.*"))).rgb
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, pixels in (("a", face), ("b", np.full_like(face, 128)), ("c", np.hstack([face, face]))):
        cv2.imwrite(str(photos / f"{name}.png"), pixels)
    call = ("--bundle", random_bundle("single"), "--images", photos, "--out", tmp_path / "s.jsonl")
    assert command(*call, "--face-check") == 0
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [row["faces"] for row in rows] == [1, 0, 2]
    error = capsys.readouterr().err
    assert "No face was found in 1 of 3 photos; their answers may mean nothing." in error
    assert "Several faces were found in 1 of 3 photos; the answer may be about any of them." in error
    assert command(*call) == 0
    assert "faces" not in json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
    assert "faces" not in capsys.readouterr().err


def test_where_no_photo_can_be_read_nothing_is_written(
    random_bundle: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "s.csv").write_text("kept")
    call = ("--bundle", random_bundle("single"), "--images", tmp_path / "a.jpg", "--out", tmp_path / "s.csv")
    assert command(*call, "--skip-bad") == 1
    assert "Error: 1 of 1 photos could not be read; nothing was written." in capsys.readouterr().err
    assert (tmp_path / "s.csv").read_text() == "kept"


def test_the_exit_status_says_that_not_all_were_predicted(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = evaluation_folder / "images"
    (images / NAMES[0]).rename(images / "b2.jfif")
    (images / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    out = tmp_path / "s.csv"
    call = ("--bundle", random_bundle("single"), "--images", images, "--out", out)
    assert command(*call) == 1
    error = capsys.readouterr().err
    assert "1 of 5 photos could not be read; their answer is class 0" in error
    assert "phone.HEIC is a HEIC photo" in error
    assert len(out.read_text().splitlines()) == 1 + len(NAMES) + 1
    (images / "phone.HEIC").unlink()
    assert command(*call) == 0
    assert len(out.read_text().splitlines()) == 1 + len(NAMES)


def test_wrong_calls_exit_with_2_and_bad_input_with_1(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = random_bundle("single")
    assert command("--bundle", bundle) == 2
    assert command("--bundle", bundle, "--images", evaluation_folder, "--out", tmp_path) == 2
    assert "is a folder. Name a file" in capsys.readouterr().err
    for missing in (
        ("--bundle", tmp_path / "none", "--images", evaluation_folder),
        ("--bundle", bundle, "--images", tmp_path / "none"),
    ):
        assert command(*missing, "--out", tmp_path / "s.csv") == 2
        assert f"{tmp_path / 'none'} does not exist. Expected a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert command("--bundle", tmp_path / "empty", "--images", evaluation_folder, "--out", tmp_path / "s.csv") == 1
    assert "empty is no bundle: it has no bundle.json" in capsys.readouterr().err
    spoilt = Path(shutil.copytree(bundle, tmp_path / "spoilt"))
    next(spoilt.glob("model-*")).unlink()
    assert command("--bundle", spoilt, "--images", evaluation_folder, "--out", tmp_path / "s.csv") == 1
    assert "lacks model-classes" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("form", ["table.csv", "list.txt", "-", "eval/images/*.jpg"])
def test_photos_are_named_by_a_table_a_list_standard_input_or_a_pattern(
    form: str, random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"eval/images/{name}" for name in NAMES]
    lines = "".join(f"{name}\n" for name in names)
    Path("table.csv").write_text("age,file\n" + "".join(f"30,{name}\n" for name in names))
    Path("list.txt").write_text(lines)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert command("--bundle", random_bundle("single"), "--images", form, "--out", "p.jsonl", "--device", "cpu") == 0
    rows = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert [row["ImageID"] for row in rows] == (sorted(names) if "*" in form else names)
    assert command("--bundle", random_bundle("single"), "--images", "eval", "--out", "s.csv", "--device", "cpu") == 0
    answers = dict(row.split(",") for row in Path("s.csv").read_text().splitlines()[1:])
    assert {Path(row["ImageID"]).name: str(row["ans"]) for row in rows} == answers


def test_listings_that_name_nothing_are_refused(
    random_bundle: RandomBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.csv").write_text("name\na.jpg\n")
    call = ("--bundle", random_bundle("single"), "--out", "s.csv", "--images")
    for images, given, message in (
        ("*.jpg", b"", "Error: *.jpg holds no photo."),
        ("-", b"\n \n", "Error: standard input is empty. Expected one photo's path per line."),
        ("-", b"\xff\n", "Error: standard input can't be read as text (line 1 has the byte 0xff, which is not UTF-8"),
        ("other.csv", b"", "Error: other.csv lacks the column ImageID; it has name."),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        assert command(*call, images) == 1
        assert message in capsys.readouterr().err
    assert not Path("s.csv").exists()


KILLED = """
import os, signal, sys
from maskcls import cli, predict
from maskcls.data.decoding.decode import decode
from tests.conftest import DemoFaces
from maskcls.serving.predicting.unfinished import Unfinished
append = Unfinished.append
def append_twice_and_be_killed(self, block):
    if self.done == 128:  # the third block: its probabilities are there, and half of its line
        self._probabilities.write(block.probabilities.tobytes())
        self._probabilities.flush()
        self._blocks.write(b'{"end": 192, "crc"')
        self._blocks.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, block)
Unfinished.append = append_twice_and_be_killed
cli.run(predict.main)
"""


@pytest.mark.soak
def test_a_call_that_was_killed_goes_on_to_the_same_bytes(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process of its own, because nothing but a kill leaves what a kill leaves."""
    files = [evaluation_folder / "images" / NAMES[number % 4] for number in range(200)]
    files[5] = evaluation_folder / "images" / "empty.jpg"
    files[5].write_bytes(b"")
    (tmp_path / "list.txt").write_text("".join(f"{file}\n" for file in files))
    call = ["--bundle", random_bundle("single"), "--images", tmp_path / "list.txt", "--device", "cpu", "--skip-bad"]
    killed, unbroken = ([*call, "--out", tmp_path / name] for name in ("killed.parquet", "unbroken.parquet"))
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, killed)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed.parquet").exists()
    assert (tmp_path / "killed.parquet.unfinished").is_dir()

    assert command(*killed[:3], tmp_path / "eval", *killed[4:], "--resume") == 2
    assert "is of another call: it differs in --images." in capsys.readouterr().err
    assert command(*killed, "--resume") == 0
    error = capsys.readouterr().err
    assert "Going on behind the 128 that are predicted." in error
    assert "1 of 200 photos could not be read" in error, "also of those that the first call had met"
    assert command(*unbroken) == 0
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "unbroken.parquet").read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


def test_an_interrupted_call_says_how_to_go_on(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Unfinished, block: Block) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "append", interrupted)
        call = ("--bundle", random_bundle("single"), "--images", evaluation_folder, "--out", tmp_path / "s.csv")
        assert command(*call) == 130
    error = capsys.readouterr().err
    assert "0 of 4 photos are predicted. The same call with --resume goes on from there." in error


@pytest.mark.parametrize("module", ["predict", "evaluate", "serve"])
def test_help_imports_nothing_heavy(module: str) -> None:
    code = f"""
import sys
sys.argv = ["maskcls.{module}", "--help"]
from maskcls import cli, {module}
try:
    cli.run({module}.main)
except SystemExit as ended:
    heavy = {{"numpy", "torch", "pandas", "pydantic", "fastapi", "uvicorn", "timm"}} & set(sys.modules)
    sys.exit(f"{{ended.code}} {{sorted(heavy)}}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "0 []\n"
    assert "--bundle" in done.stdout


def test_test_time_augmentation_changes_the_probabilities(
    random_bundle: RandomBundle, evaluation_folder: Path, tmp_path: Path
) -> None:
    tables = []
    for option in ([], ["--tta"]):
        call = (
            "--bundle",
            random_bundle("single"),
            "--images",
            evaluation_folder,
            "--out",
            tmp_path / "s.csv",
            "--probabilities",
            *option,
        )
        assert command(*call) == 0
        tables.append((tmp_path / "s.probabilities.csv").read_text())
    assert tables[0] != tables[1]
