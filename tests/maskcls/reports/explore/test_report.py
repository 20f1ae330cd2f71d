"""The facts of a folder in which something is planted, and the page that tells them."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from maskcls.data.contest_folder import scan
from maskcls.data.identical import identical_photos
from maskcls.data.photos import tabulate
from maskcls.errors import CallError, DataError
from maskcls.reports.explore.facts import Facts, gather
from maskcls.reports.explore.plots import PLOTS
from maskcls.reports.explore.report import PAGE, check_writable, summary, write
from maskcls.reports.plots import STYLE
from tests.browser import opened, serious_findings
from tests.maskcls.conftest import MakeContest, people
from tests.maskcls.reports.explore.portraits import copies, jpeg, write_portraits

REAL_FACES = Path(__file__).parents[5] / "shared/faces/dev"
VOID = {"meta", "br", "img", "link", "wbr"}


def photo(data: Path, person: int, stem: str) -> Path:
    return next((data / "train/images" / people(person)[-1][4]).glob(f"{stem}.*"))


def plant(data: Path) -> None:
    """24 people: 1 and 2 share a photo; one of 5's is a smaller, brighter copy of 3's; 7's mask1 and mask2 are equal.

    One of 9's photos is none, and one of 10's is missing.
    """
    write_portraits(data)
    shutil.copyfile(photo(data, 1, "mask2"), photo(data, 2, "mask2"))
    of_three = cv2.cvtColor(cv2.imread(str(photo(data, 3, "normal"))), cv2.COLOR_BGR2RGB)
    photo(data, 5, "normal").write_bytes(jpeg(copies(copies(of_three)["brighter"])["half as large"], 70))
    shutil.copyfile(photo(data, 7, "mask1"), photo(data, 7, "mask2"))
    photo(data, 9, "mask3").write_bytes(b"<script>alert('x')</script>")
    photo(data, 10, "mask4").unlink()
    (data / "train/images" / people(11)[-1][4] / "._mask1.jpg").write_bytes(b"litter")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "faces"
    rows = [*people(24)[:-1], ("000001", "female", "<b>한국</b> $x^$", "60", people(24)[-1][4])]
    for row in rows:
        (folder / "train/images" / row[4]).mkdir(parents=True)
        for i, stem in enumerate(("incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5", "normal")):
            (folder / "train/images" / row[4] / (stem + (".jpg", ".jpeg", ".png")[i % 3])).touch()
    with (folder / "train/train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "gender", "race", "age", "path"), *rows])
    plant(folder)
    return folder


@pytest.fixture(scope="module")
def facts(data: Path) -> Facts:
    return gather(data)


@pytest.fixture(scope="module")
def out(facts: Facts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "look"
    write(facts, folder)
    return folder


@pytest.fixture(scope="module")
def text(out: Path) -> str:
    return (out / PAGE).read_text()


def keys(facts: Facts, rows: Any) -> list[str]:
    return [re.sub(r"^(\d+).*/(.*)\..*$", r"\1/\2", facts.photos["key"].iloc[row]) for row in rows]


def test_counts(facts: Facts) -> None:
    assert (len(facts.people), facts.rows, len(facts.photos), len(facts.looks), facts.n_undecodable) == (
        24,
        "of 24 rows in train.csv",
        24 * 7 - 2,
        24 * 7 - 2,
        1,
    )
    assert facts.people["gender"].value_counts().to_dict() == {0: 12, 1: 12}
    assert facts.people["age_group"].value_counts().to_dict() == {0: 8, 1: 8, 2: 8}
    assert facts.people["n_photos"].value_counts().to_dict() == {7: 22, 6: 2}
    assert facts.photos["label"].value_counts().to_dict() == {
        c: (20 if c < 6 else 4) - (c in (2, 3)) for c in range(18)
    }
    assert facts.photos["type"].value_counts().to_dict() == {
        ".jpg (JPEG)": 71,
        ".jpeg (JPEG)": 47,
        ".png (PNG)": 47,
        ".png (JPEG)": 1,
    }
    assert facts.photos.groupby(["width_px", "height_px"]).size().to_dict() == {(96, 128): 165, (48, 64): 1}
    assert facts.shared_ids == {"000001": [people(1)[0][4], people(24)[-1][4]]}
    assert facts.corrected == []


def test_identical_photos_are_found(facts: Facts, data: Path) -> None:
    assert [keys(facts, rows) for rows in facts.identical_across] == [["000001/mask2", "000002/mask2"]]
    assert [keys(facts, rows) for rows in facts.identical_within] == [["000007/mask1", "000007/mask2"]]
    persons = [set(facts.photos["person"].iloc[rows]) for rows in facts.identical_across]
    assert persons == identical_photos(tabulate(scan(data)))


def test_the_planted_near_duplicate_is_found_and_nobody_else_is(facts: Facts) -> None:
    assert [keys(facts, pair[:2]) for pair in facts.near.across] == [["000003/normal", "000005/normal"]]
    assert facts.near.within == []
    others = [bits for row, bits in enumerate(facts.near.nearest_bits) if bits > facts.near.max_bits]
    assert min(others) > 2 * facts.near.max_bits


def test_problems_are_reported_and_stop_nothing(facts: Facts, text: str) -> None:
    assert sorted(problem.kind for problem in facts.problems) == ["missing photos", "photo"]
    assert any(
        "000009_male_Asian_60/mask3" in problem.message and "not an image that can be decoded" in problem.message
        for problem in facts.problems
    )
    assert "mask4 missing. Copy the folder again." in text
    assert "1 more can&#39;t be decoded" in text
    assert "1 id of several people" in text
    assert "1 file that is not a photo" in text


def test_corrections_are_applied_and_counted(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    own.write_text("what,path,value,file\ngender,000002_male_Asian_45,female,\nswap,000003_male_Asian_60,,\n")
    facts = gather(data, corrections=str(own))
    assert facts.people["gender"].value_counts().to_dict() == {0: 11, 1: 13}
    assert len(facts.corrected) == 7 + 2
    with pytest.raises(CallError, match=r"--corrections nowhere\.csv: there is no such file"):
        gather(data, corrections="nowhere.csv")


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, make_contest: MakeContest) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist\. Expected the contest's layout"):
        gather(tmp_path / "nowhere")
    data = make_contest(6)
    for file in (data / "train/images").rglob("*.*"):
        file.write_bytes(b"no photo")
    with pytest.raises(DataError, match=r"None of the 42 photos of .* can be decoded\. The first: .* is not an image"):
        gather(data)


def test_rows_with_problems_are_left_out_and_reported(make_contest: MakeContest) -> None:
    data = make_contest(12)
    table = data / "train/train.csv"
    table.write_text(table.read_text().replace("000004,female,Asian,25", "000004,woman,Asian,25"))
    facts = gather(data)
    assert (facts.rows, len(facts.people)) == ("of 12 rows in train.csv", 11)
    assert [problem.kind for problem in facts.problems] == ["gender"]


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_every_plot_has_a_title_axes_names_and_n(facts: Facts, plot: Any) -> None:
    with mpl.rc_context(STYLE):
        ax = Figure().subplots()
        plot.draw(ax, facts)
    n = 24 if plot.name in ("gender", "race", "age-groups", "ages", "photos-per-person") else 166
    assert re.fullmatch(rf"[A-Z].+ \(n = {n} (people|photos)\)", ax.get_title(loc="left"))
    assert ax.get_xlabel()
    assert ax.get_ylabel()


@pytest.mark.soak
def test_one_person_makes_a_page_too_and_the_same_when_written_again(make_contest: MakeContest, tmp_path: Path) -> None:
    facts = gather(make_contest(1))
    assert "1 person, 7 photos" in summary(facts)[0]
    files = write(facts, tmp_path / "one")
    assert len(files) == 2 + len(PLOTS) + 3
    for file, again in zip(files, write(facts, tmp_path / "again"), strict=True):
        assert file.read_bytes() == again.read_bytes(), file.name


def test_the_pictures_are_there_and_can_be_decoded(out: Path) -> None:
    names = {"overview", *(plot.name for plot in PLOTS), *(f"class-{class_:02d}" for class_ in range(18))}
    assert {file.name for file in out.iterdir()} == {PAGE, *(f"{name}.png" for name in names)}
    for name in names:
        pixels = cv2.imread(str(out / f"{name}.png"))
        assert pixels is not None, name
        assert min(pixels.shape[:2]) > 100
        assert pixels.std() > 5, f"{name} is empty"


def test_the_page_asks_nothing_of_a_network_and_is_whole(text: str) -> None:
    sources = re.findall(r"<[^>]+ (?:src|href|xlink:href)=[\"']?([^\s\"'>]+)", text)
    assert {source.partition(",")[0] for source in sources if not source.startswith("#")} == {"data:image/jpeg;base64"}
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    opened: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in VOID:
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Balanced().feed(text)
    assert opened == []
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == len(PLOTS)
    for figure in figures:
        ElementTree.fromstring(figure)


def test_the_page_tells_what_was_found_and_escapes_it(text: str) -> None:
    for title in (
        "People",
        "Classes",
        "Photos",
        "Identical photos under several people",
        "Near-duplicates",
        "Contact sheets",
    ):
        assert f">{title}</h2>" in text
    assert "<b>한국" not in text
    assert "&lt;b&gt;한국&lt;/b&gt; $x^$" in text
    assert re.search(r"\d+ bits? apart, 1 pair alike", text)
    assert text.count("<summary>") >= 18


def test_an_earlier_exploration_is_replaced_and_other_files_stay(
    out: Path, make_contest: MakeContest, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(out, again)
    (again / "notes.txt").write_text("mine")
    with pytest.raises(CallError, match=r"holds an exploration already\. Name a new folder, or give --overwrite\."):
        check_writable(again, overwrite=False)
    check_writable(again, overwrite=True)
    write(gather(make_contest(1)), again)
    assert sorted(file.name for file in again.glob("class-*")) == ["class-00.png", "class-06.png", "class-12.png"]
    assert (again / "notes.txt").read_text() == "mine"


@pytest.fixture
def visit(out: Path) -> Iterator[Any]:
    """The page in Chromium, as wide as a phone; complaints of the console fail the test."""
    with opened(out / PAGE, (400, 800)) as page:
        yield page


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_shows_every_picture_at_a_phones_and_a_desktops_width(visit: Any, facts: Facts) -> None:
    assert visit.evaluate("document.images.length") >= len(facts.photos) + 4  # all photos stand on sheets here
    assert visit.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length") == 0
    assert visit.evaluate("document.querySelectorAll('svg').length") == len(PLOTS)
    for width in (400, 1200):
        visit.set_viewport_size({"width": width, "height": 800})
        assert visit.evaluate("document.documentElement.scrollWidth") <= width
        letters = visit.evaluate(
            "[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)"
        )
        assert min(letters) > 7
    assert serious_findings(visit) == []


@pytest.mark.soak
def test_real_faces() -> None:
    if not REAL_FACES.is_dir():
        pytest.skip(f"the real faces are not here: {REAL_FACES}")
    facts = gather(REAL_FACES)
    assert (len(facts.people), len(facts.photos), facts.n_undecodable, facts.problems) == (462, 3234, 0, [])
    assert np.bincount(facts.photos["label"]).tolist() == [400, 460, 70, 650, 625, 105, *[80, 92, 14, 130, 125, 21] * 2]
    assert (facts.identical_across, facts.identical_within, facts.near.n_across) == ([], [], 0)
    assert facts.near.nearest_bits.min() == 50  # 000016 and 000167 are one man
    assert 1 <= facts.near.n_within <= 10
