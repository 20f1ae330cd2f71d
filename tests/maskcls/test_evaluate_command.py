from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from maskcls import evaluate, predict
from maskcls.serving.people import person_hash
from tests.commands import call

RandomBundle = Callable[[str], Path]
MakeContest = Callable[..., Path]
PHOTOS_A_PERSON = 7
FACES = Path(__file__).parents[3] / "shared/faces"


def command(main: Callable[..., None], *arguments: object) -> int:
    """Run `python -m maskcls.<command>` in this process; returns its exit status. What it says is printed here."""
    said = call(main, *arguments)
    print(said.out, end="")
    print(said.err, end="", file=sys.stderr)
    return said.status


def shown(row: str, text: str) -> list[str]:
    """The cells of a table's row, by how it begins."""
    (line,) = [line for line in text.splitlines() if re.match(rf"│ {re.escape(row)} ", line)]
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_people_it_trained_on_are_counted_and_the_others_scored(
    random_bundle: RandomBundle, make_contest: MakeContest, capsys: pytest.CaptureFixture[str]
) -> None:
    people = 6  # of whom the random bundle says that it knows the first two
    data = make_contest(people)
    assert (
        command(
            evaluate.main,
            "--bundle",
            random_bundle("three"),
            "--data",
            data,
            "--corrections",
            "none",
            "--device",
            "cpu",
        )
        == 0
    )
    said = capsys.readouterr()
    assert shown("photos", said.out) == ["photos", str(people * PHOTOS_A_PERSON), str((people - 2) * PHOTOS_A_PERSON)]
    others_f1 = shown("macro F1", said.out)[2]
    assert (
        "Warning: the bundle has seen 2 of these 6 people (it trained on them, or was chosen by their score), "
        f"so the score on all is too good. On the other 4 its macro F1 is {others_f1}."
    ) in said.err
    for name in ("accuracy", "F1 mask3", "F1 gender2", "F1 age3"):
        assert 0 <= float(shown(name, said.out)[1]) <= 1
    assert shown("17", said.out)[:3] == ["17", "not worn, female, over 59", "1"]


def test_a_use_of_the_holdout_is_counted(
    random_bundle: RandomBundle, make_contest: MakeContest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = make_contest(6), tmp_path / "runs"
    people = sorted(folder.name for folder in (data / "train/images").iterdir())
    bundle = Path(shutil.copytree(random_bundle("single"), tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    hashes = [person_hash(person, manifest["split_digest"]) for person in people[-3:]]
    (bundle / "bundle.json").write_text(json.dumps({**manifest, "holdout_hashes": hashes}))

    def use(*words: object) -> str:
        called = ("--bundle", bundle, "--data", data, "--corrections", "none", "--device", "cpu", *words)
        assert command(evaluate.main, *called) == 0
        return capsys.readouterr().err.splitlines()[-1]

    uncounted = use("--runs", runs)
    assert uncounted.startswith(f"Scored on 3 people of the holdout of its search. This use is not counted: {runs}")
    assert uncounted.endswith("(No such file or directory). Name the folder of all runs with --runs.")
    runs.mkdir()
    for _ in range(2):  # the same score again tells nobody anything new
        said = use("--runs", runs)
        assert said == "Scored on 3 people of the holdout of its search. The holdout has been used 1 time."
    said = use("--runs", runs, "--tta")
    assert said.endswith("The holdout has been used 2 times: the best of those scores is too high again.")
    inside = Path(shutil.copytree(bundle, runs / "first" / "best"))
    (runs / "first" / "search.json").write_text("{}")
    bundle = inside
    assert "used 2 times" in use(), "noted beside the run in whose folder the bundle is"


def test_a_bundles_score_and_its_submissions_are_the_same(
    random_bundle: RandomBundle, make_contest: MakeContest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, answers, submission = tmp_path / "photos", tmp_path / "answers.csv", tmp_path / "submission.csv"
    person = next((make_contest(1) / "train/images").iterdir())
    shutil.copytree(person, images)
    names = sorted(file.name for file in images.iterdir())
    answers.write_text("ImageID,ans,person\n" + "".join(f"{name},{2 * i},x\n" for i, name in enumerate(names)))
    bundle = ("--bundle", random_bundle("single"), "--images", images)
    assert command(predict.main, *bundle, "--out", submission) == 0
    capsys.readouterr()
    assert command(evaluate.main, *bundle, "--answers", answers) == 0
    of_bundle = capsys.readouterr()
    assert command(evaluate.main, "--submission", submission, "--answers", answers) == 0
    assert capsys.readouterr().out == of_bundle.out
    assert shown("photos", of_bundle.out) == ["photos", "7"]
    assert of_bundle.err == ""


def test_a_perfect_submission_scores_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.csv"
    answers.write_text("ImageID,ans\n" + "".join(f"{c}.jpg,{c}\n" for c in range(17)))
    assert command(evaluate.main, "--submission", answers, "--answers", answers) == 0
    out = capsys.readouterr().out
    assert shown("macro F1", out) == ["macro F1", "1.0000"]
    assert shown("16", out) == ["16", "not worn, female, 30 to 59", "1", "1.0000"]
    assert shown("17", out) == ["17", "not worn, female, over 59", "0", "-"]


@pytest.mark.skipif(not FACES.is_dir(), reason="no real faces beside the repository (../shared/faces)")
def test_the_placeholder_of_the_real_faces_scores_as_the_largest_class_does(capsys: pytest.CaptureFixture[str]) -> None:
    command(evaluate.main, "--submission", FACES / "dev/eval/info.csv", "--answers", FACES / "dev-answers/eval.csv")
    out = capsys.readouterr().out
    n = int(shown("photos", out)[1])
    of_class_0 = int(shown("0", out)[2])
    assert float(shown("accuracy", out)[1]) == pytest.approx(of_class_0 / n, abs=5e-5)
    assert float(shown("macro F1", out)[1]) == pytest.approx(2 * of_class_0 / (of_class_0 + n) / 18, abs=5e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give either --bundle DIR, to score a classifier, or --submission CSV"),
        (("--bundle", "b", "--submission", "s"), "Give either --bundle DIR"),
        (("--submission", "s"), "--submission needs --answers CSV"),
        (("--submission", "s", "--answers", "a", "--data", "d"), "leave out --data and --images"),
        (("--bundle", "b"), "--bundle needs --data DIR with labelled people, or --images with --answers CSV"),
        (("--bundle", "b", "--images", "i"), "--images needs --answers CSV"),
        (
            ("--bundle", "b", "--images", "i", "--answers", "a", "--data", "d"),
            "Give either --data DIR, or --images with --answers CSV",
        ),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(evaluate.main, *arguments) == 2
    assert message in capsys.readouterr().err


def test_bad_input_is_reported_before_the_weights_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = tmp_path / "answers.csv"
    answers.write_text("ImageID,ans\na,1\n")
    submission = tmp_path / "submission.csv"
    submission.write_text("ImageID,ans\nb,1\n")
    assert command(evaluate.main, "--submission", submission, "--answers", answers) == 1
    assert "submission.csv lacks 1 of 1 photos, a the first" in capsys.readouterr().err
    assert command(evaluate.main, "--bundle", tmp_path, "--data", tmp_path / "nowhere") == 2
    assert "nowhere does not exist" in capsys.readouterr().err
