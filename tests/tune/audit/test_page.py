"""audit.html in a browser: keys judge, the file that is saved is read back as corrections, nothing is requested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from maskcls.data.corrections import Correction, read_corrections
from tests.browser import DESK, PHONE, opened, serious_findings
from tests.tune.audit.conftest import Knowing
from tune.audit.findings import Finding
from tune.audit.page import write_page
from tune.audit.proposals import write_proposals

EARLIER = Correction(2, "gender", path='somebody,"else"', value="male")


@pytest.fixture
def findings(photos: pd.DataFrame) -> list[Finding]:
    """Five doubtful labels of five people, with texts that want escaping."""
    rows = [group.index.tolist() for _, group in photos.groupby("person")][:5]
    person = [str(photos["person"].iloc[one[0]]) for one in rows]
    why = 'predicted <b>"male"</b>, 0.9'
    return [
        Finding("swap", person[0], 0.99, why, (rows[0][0], rows[0][-1])),
        Finding("gender", person[1], 0.9, why, tuple(rows[1][:3]), value="male", was="female"),
        Finding("age", person[2], 0.8, why, tuple(rows[2][:3]), value="30 to 59", was="under 30"),
        Finding("mask", person[3], 0.7, why, (rows[3][2],), value="not worn", was="worn", file="mask2"),
        Finding("age", person[4], 0.6, why, tuple(rows[4][:3]), value="over 59", was="30 to 59"),
    ]


@pytest.fixture
def page_file(findings: list[Finding], photos: pd.DataFrame, knowing: Knowing, tmp_path: Path) -> Path:
    notes = ("Nobody <here> is real.",)
    write_page(tmp_path / "audit.html", knowing(photos, photos), findings, [EARLIER], limit=4, notes=notes)
    return tmp_path / "audit.html"


def test_without_a_script_the_page_shows_all_and_promises_no_key(page_file: Path) -> None:
    text = page_file.read_text()
    assert text.count('class="finding"') == 4, "no more than --limit"
    assert text.count('class="choices" hidden') == 4
    assert 'class="judging" hidden' in text
    assert "<b>&#34;male" not in text
    assert "Nobody &lt;here&gt; is real." in text
    assert text.count("data:image/jpeg") == 2 + 3 + 3 + 1


@pytest.fixture
def visit(page_file: Path) -> Iterator[Any]:
    """The page on a phone; complaints of the console, and any request but for the file, fail the test."""
    with opened(page_file, PHONE) as page:
        yield page


def status(visit: Any) -> str:
    return str(visit.inner_text(".judging p"))


@pytest.mark.slow
@pytest.mark.browser
def test_keys_judge_and_the_saved_file_is_read_back(
    visit: Any, findings: list[Finding], photos: pd.DataFrame, tmp_path: Path
) -> None:
    assert visit.is_disabled(".judging button"), "nothing is judged yet"
    visit.keyboard.press("d")
    for key in "arsa":  # accept, reject, skip, accept
        visit.keyboard.press(key)
    assert status(visit) == "3 of 4 judged: 2 accepted, 1 rejected"
    for _ in range(20):  # the browser keeps it a moment later
        visit.reload()
        if not status(visit).startswith("0 of 4"):
            break
        visit.wait_for_timeout(250)
    assert status(visit) == "3 of 4 judged: 2 accepted, 1 rejected", "kept by the browser"
    assert visit.evaluate("[...document.querySelectorAll('.finding')].findIndex(c => c.matches('.current'))") == 2
    visit.keyboard.press("ArrowDown")
    visit.keyboard.press("r")  # thinks again about the last one
    visit.keyboard.press("k")
    visit.locator(".finding.current button[value=accepted]").click()
    assert status(visit) == "4 of 4 judged: 2 accepted, 2 rejected"
    with visit.expect_download() as saved:
        visit.keyboard.press("d")
    assert saved.value.suggested_filename == "accepted.csv"
    saved.value.save_as(tmp_path / "accepted.csv")
    read = read_corrections(str(tmp_path / "accepted.csv"))
    assert [replace(row, line=2) for row in read.rows[:1]] == [EARLIER]
    assert [(row.what, row.path, row.judged) for row in read.rows[1:]] == [
        ("swap", findings[0].person, "accepted"),
        ("age", findings[2].person, "accepted"),
    ]
    assert [(row.what, row.file) for row in read.rejected] == [("gender", ""), ("mask", "mask2")]
    assert read.judged_people(photos) == {finding.person for finding in findings[:4]}
    write_proposals(tmp_path / "corrections.csv", findings[:4], [EARLIER])
    proposed, judged = ((tmp_path / name).read_text() for name in ("corrections.csv", "accepted.csv"))
    assert judged.replace("accepted", "").replace("rejected", "") == proposed, "the page writes what Python writes"


@pytest.mark.slow
@pytest.mark.browser
def test_a_card_that_is_judged_passes_the_focus_on(visit: Any) -> None:
    visit.keyboard.press("a")
    assert visit.evaluate("document.activeElement === document.querySelectorAll('.finding')[1]")
    assert visit.get_attribute(".finding button[value=accepted]", "aria-pressed") == "true"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("size", "dark"), [(PHONE, True), (DESK, False)])
def test_every_photo_is_shown_and_axe_finds_nothing_serious(page_file: Path, size: tuple[int, int], dark: bool) -> None:
    with opened(page_file, size, dark=dark) as page:
        page.keyboard.press("a")
        page.keyboard.press("r")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        unseen = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
        assert page.evaluate(unseen) == 0
        assert serious_findings(page) == []
