from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.commands import call_module


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def check(*arguments):
    return call_module("maskcls.check", *arguments)


def test_a_good_folder(make_contest):
    data = make_contest(24)
    done = check("--data", data)
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "24 people, 168 photos that can be used:"
    assert lines[1].split() == ["0", "worn,", "male,", "under", "30", "20"]
    assert len(lines) == 1 + 18 + 1
    assert lines[-1] == f"{data} is fine."


def test_of_one_photo_it_speaks_of_one(make_contest, tmp_path):
    photo = next((make_contest(1) / "train/images").rglob("mask1.*"))
    (tmp_path / "own.csv").write_text(f"file,person,mask,gender,age\n{photo},Ann,worn,female,60\n")
    done = check("--data", tmp_path / "own.csv")
    assert done.out.splitlines()[1:2] == ["1 person, 1 photo that can be used:"]
    assert done.err.endswith("own.csv has 1 problem. Mend it before training.\n"), "17 classes have nobody"


def test_a_bad_folder_lists_everything_and_exits_with_1(make_contest):
    data = make_contest(96)
    table = data / "train/train.csv"
    first, rest = table.read_text().split("000073", 1)
    table.write_text(first.replace("male,Asian,45", "male,Asian,middle") + "000073" + rest)
    (data / "train/images/000001_male_Asian_25/mask1.jpeg").write_bytes(b"no photo")
    done = check("--data", data)
    assert done.status == 1
    assert done.out.count("age is 'middle'. Expected a number of years from 1 to 120. Correct the row.") == 24
    assert "mask1.jpeg is not an image that can be decoded" in done.out
    assert "72 people, 503 photos that can be used:" in done.out
    assert done.err == (
        f"Error: {data} has 25 problems. "
        "Mend them, or leave those people and photos out of the training with --skip-bad.\n"
    )


@pytest.mark.parametrize("arguments", [(), ("--data",), ("--dta", "x")])
def test_a_wrong_call_exits_with_2(arguments):
    done = check(*arguments)
    assert done.status == 2
    assert "--data" in done.err or "--dta" in done.err
    assert "Traceback" not in done.err


def test_a_folder_that_is_not_there(tmp_path):
    done = check("--data", tmp_path / "nowhere")
    assert done.status == 2
    assert "nowhere does not exist. Expected the contest's layout" in done.err
    assert not done.out


@pytest.mark.soak
def test_help_is_quick():
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "maskcls.check", "--help"], capture_output=True, check=False)
        durations.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert min(durations) < 1.0, durations  # half a second on a machine with nothing else to do


def test_the_limits_of_size_are_options(make_contest, monkeypatch):
    data = make_contest(24)
    monkeypatch.setenv("MASKCLS_MAX_MEGAPIXELS", "1000")  # so that the option's value does not outlive this test
    monkeypatch.setenv("MASKCLS_MAX_ASPECT", "1.2")
    done = check("--data", data, "--max-megapixels", "0.0003")
    assert done.status == 1
    assert "is 16x20 px, 0 megapixels: at most 0.0003 expected" in done.out
    assert "1 times as long as wide: at most 1.2 times" in check("--data", data, "--max-megapixels", "1").out
    assert check("--data", data, "--max-aspect", "2").status == 0
