"""The command in a process of its own, and its page in a real Chromium with a drawn face before the camera."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskcls import serve
from maskcls.serving.export import note_scores
from maskcls.serving.marginals import marginals
from maskcls.serving.predictor import Predictor
from maskcls.serving.web.examples import EXAMPLES
from maskcls.serving.web.limits import Limits
from tests.browser import CHROMIUM, DESK, PHONE, serious_findings
from tests.commands import call
from tests.conftest import DemoFaces
from tests.maskcls.serving.web.conftest import until
from tests.maskcls.serving.web.test_api import noise, png_of

RandomBundle = Callable[[str], Path]
CAMERA_SIZE = (640, 480)
START_S = 60
_WRONG = {"class": [0.5, 0.36, 0.64], "mask": [0.04, 0.01, 0.07]}
GROUPS = [
    {
        "on": "holdout",
        "people": 24,
        "photos": 1068,
        "groups": [
            {"by": "gender", "group": "male", "people": 20, "photos": 900, "wrong": _WRONG, "verdict": "more errors"},
            {
                "by": "age_group",
                "group": "over 59",
                "people": 4,
                "photos": 168,
                "wrong": {"class": [0.25, None, None], "mask": [None, None, None]},
                "verdict": "too few to tell",
            },
        ],
    }
]
"""As `tune.report.group_record` puts them into a bundle."""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in. Say who may use the service: --auth USER:PASS"),
        (["--auth", "ann"], "--auth expects USER:PASSWORD, neither of them empty"),
    ],
)
def test_who_may_use_the_service_is_said(words: list[str], message: str) -> None:
    said = call(serve.main, "--bundle", "nowhere", *words)
    assert (said.status, said.out) == (2, "")
    assert message in said.err


def test_each_limit_is_an_option_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(serve, "_serve", lambda bundle, device, access, limits, address, **rest: seen.append(limits))
    names = {"body_mb": "max-body-mb", "bodies_mb": "max-bodies-mb", "megapixels": "max-megapixels"}
    names |= {"aspect": "max-aspect", "photos": "max-photos"}
    for number, name in enumerate((each.name for each in fields(Limits)), 2):
        said = call(serve.main, "--bundle", "x", f"--{names.get(name, name.replace('_', '-'))}", number)
        assert said.status == 0, said.err
        assert seen.pop() == replace(Limits(), **{name: number})
    call(serve.main, "--bundle", "x")
    assert seen == [Limits()]


def test_without_fastapi_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "maskcls.serving.web.app", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    said = call(serve.main, "--bundle", "nowhere")
    assert said.status == 1
    assert "needs fastapi, which is not installed. Install it with: pip install 'maskcls[web]'" in said.err


@dataclass
class Site:
    """The command in a process of its own; any file it wrote, except matplotlib's list of fonts, is in `scratch`."""

    url: str
    scratch: Path
    photo: Path
    process: subprocess.Popen[str]

    def files_left(self) -> list[Path]:
        return [file for file in self.scratch.rglob("*") if file.is_file()]


@pytest.fixture(scope="module")
def site(
    random_bundle: RandomBundle, demo_faces: DemoFaces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    scratch = folder / "scratch"
    scratch.mkdir()
    drawn = sorted(demo_faces(6, 0).glob("train/images/*/normal.*"))
    photo = next(file for file in drawn if not file.name.startswith("."))
    bundle = Path(shutil.copytree(random_bundle("three"), folder / "bundle"))
    note_scores(bundle, {"groups": GROUPS})
    words = ("-m", "maskcls.serve", "--bundle", bundle, "--port", "0", "--device", "cpu")
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=scratch,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONUNBUFFERED": "1",
            **{name: str(scratch) for name in ("HOME", "TMPDIR")},
            "MPLCONFIGDIR": str(folder),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()  # once it listens; it then answers whoever connects
        found = re.search(r"at (http://127\.0\.0\.1:\d+/) \(Ctrl-C", said)
        assert found, (said, process.communicate())
        yield Site(found[1], scratch, photo, process)
    finally:
        process.kill()
        process.wait()


@dataclass
class Visit:
    """A page in Chromium, and what it asked of whom."""

    page: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def upload(self, photo: Path) -> None:
        self.page.set_input_files("input[type=file]", photo)

    def shown(self) -> dict[str, dict[str, int]]:
        """The percentages on the page: task -> label -> percent."""
        read = """() => Object.fromEntries([...document.querySelectorAll(".task")].map((task) => [task.id,
            Object.fromEntries([...task.querySelectorAll("li")].map(
                (line) => [line.dataset.label, parseInt(line.querySelector(".percent").textContent)]))]))"""
        found: dict[str, dict[str, int]] = self.page.evaluate(read)
        return found

    def until(self, expression: str) -> None:
        """Wait until JavaScript is true; Playwright's own waiting needs `eval`, which the page's policy forbids."""
        until(lambda: bool(self.page.evaluate(expression)))

    def transfer(self, target: str, event: str, photo: Path) -> None:
        """Drop a file on an element, or paste it there."""
        self.page.evaluate(
            """([target, kind, name, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/jpeg" }));
                const event = kind === "paste"
                    ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                    : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
                document.querySelector(target).dispatchEvent(event);
            }""",
            [target, event, photo.name, list(photo.read_bytes())],
        )


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a drawn face before its camera."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright (the extra `dev`)")
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    frame = cv2.resize(cv2.imread(str(site.photo)), (360, 480))
    frame = cv2.copyMakeBorder(frame, 0, 0, 140, 140, cv2.BORDER_REPLICATE)
    assert frame.shape[1::-1] == CAMERA_SIZE
    camera.write_bytes(cv2.imencode(".jpg", frame)[1].tobytes() * 30)
    switches = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", *switches]
        )
        yield started
        started.close()


@pytest.fixture
def visit(site: Site, browser: Any) -> Iterator[Visit]:
    """The page in a window of its own, which shares nothing with another test's."""
    window = browser.new_context(viewport={"width": 1100, "height": 760}, locale="en-US")
    page = window.new_page()
    page.set_default_timeout(START_S * 1000)
    found = Visit(page)
    page.on("request", lambda request: found.asked.append(request.url))
    page.on("console", lambda message: found.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.goto(site.url)
    page.wait_for_selector("dd:has-text('mobilenetv3_small_050')")
    yield found
    window.close()


@pytest.mark.slow
@pytest.mark.browser
def test_an_uploaded_photo_is_answered_as_predict_answers_it_and_is_kept_nowhere(
    site: Site, visit: Visit, random_bundle: RandomBundle
) -> None:
    visit.upload(site.photo)
    visit.page.wait_for_selector("text=Most likely")
    expected = marginals(Predictor(random_bundle("three"), "cpu").probabilities([site.photo])[0])
    shown = visit.shown()
    assert shown.keys() == expected.keys()
    for task, labels in expected.items():
        assert shown[task] == {name: pytest.approx(100 * p, abs=0.51) for name, p in labels.items()}
    assert visit.page.evaluate("document.querySelector('.stage img').naturalWidth") > 0  # and the browser shows it
    assert len(visit.asked) > 5
    assert [url for url in visit.asked if not url.removeprefix("blob:").startswith(site.url)] == []
    assert visit.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    assert site.files_left() == []
    assert visit.complaints == []


@pytest.mark.slow
@pytest.mark.browser
def test_a_classifier_that_is_not_sure_names_no_answer(site: Site, visit: Visit) -> None:
    unsure = {"sure": False, "class": None, "mask": None, "gender": None, "age_group": None, "probability": 0.4}
    flat = {"mask": {"worn": 0.5, "incorrect": 0.5}, "gender": {"male": 1.0}, "age_group": {"under 30": 1.0}}
    answer = {"predictions": [{**unsure, "marginals": flat, "probabilities": [0.4], "faces": 1}]}
    visit.page.route("**/v1/predict", lambda route: route.fulfill(json=answer))
    visit.upload(site.photo)
    visit.page.wait_for_selector("text=Not sure: the best answer has only 40%")
    assert visit.shown()["mask"] == {"worn": 50, "incorrect": 50}
    assert visit.page.evaluate("document.querySelectorAll('.tasks .best').length") == 0


@pytest.mark.slow
@pytest.mark.browser
def test_the_camera_takes_a_photo_which_is_answered_as_predict_answers_it_and_goes_off(
    site: Site, visit: Visit, random_bundle: RandomBundle
) -> None:
    page = visit.page
    page.click("text=Use the camera")
    visit.until("document.querySelector('video').videoWidth > 0")
    page.click("text=Take the photo")
    page.wait_for_selector("text=Most likely")
    taken = page.evaluate("sent.arrayBuffer().then((bytes) => [...new Uint8Array(bytes)])")
    (expected,) = Predictor(random_bundle("three"), "cpu").probabilities([bytes(taken)])
    for task, labels in marginals(expected).items():
        assert visit.shown()[task] == {name: pytest.approx(100 * p, abs=0.51) for name, p in labels.items()}
    size = page.evaluate(
        "[document.querySelector('.stage img').naturalWidth, document.querySelector('.stage img').naturalHeight]"
    )
    assert tuple(size) == CAMERA_SIZE
    assert page.evaluate("document.querySelector('video').srcObject") is None
    assert page.is_visible("text=Use the camera")
    assert site.files_left() == []
    assert visit.complaints == []


@pytest.mark.slow
@pytest.mark.browser
def test_photos_are_dropped_pasted_and_chosen_among_examples(site: Site, visit: Visit) -> None:
    page, shown = visit.page, []
    for way in (
        lambda: visit.transfer(".stage", "drop", site.photo),
        lambda: visit.transfer("body", "paste", site.photo),
        lambda: page.click(".examples button >> nth=2"),
    ):
        page.reload()
        assert visit.shown() == {}
        way()
        page.wait_for_selector("text=Most likely")
        shown.append(visit.shown())
    assert shown[0] == shown[1] != shown[2]
    assert page.locator(".examples img").count() == len(EXAMPLES)


@pytest.mark.slow
@pytest.mark.browser
def test_what_is_no_photo_is_said_in_the_pages_own_words_and_the_page_goes_on(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    spoilt = {
        "Choose a JPEG, PNG or WebP file": b"Shall I compare thee",
        "The photo is empty (0 bytes)": b"",
        "more than 25 million pixels": png_of(10_000, 5_000),
        "its end is missing": noise(".jpg", 64, 64)[:900],
        "too long and narrow": noise(".png", 200, 16),
    }
    for sentence, content in spoilt.items():
        (tmp_path / "photo.jpg").write_bytes(content)
        visit.upload(tmp_path / "photo.jpg")
        visit.page.wait_for_selector(f".status.bad:has-text('{sentence}')")
        assert visit.shown() == {}
    visit.upload(site.photo)
    visit.page.wait_for_selector("text=Most likely")
    assert visit.page.inner_text(".status") == ""


@pytest.mark.slow
@pytest.mark.browser
def test_no_face_and_two_faces_get_a_word(site: Site, visit: Visit, tmp_path: Path) -> None:
    face = cv2.resize(cv2.imread(str(site.photo)), (240, 320))
    for pixels, sentence in (
        (np.full_like(face, 128), "No face was found"),
        (np.hstack([face, face]), "2 faces were found"),
    ):
        cv2.imwrite(str(tmp_path / "photo.png"), pixels)
        visit.upload(tmp_path / "photo.png")
        visit.page.wait_for_selector(f".note:has-text('{sentence}')")
        assert visit.page.is_visible("text=Most likely")
        assert ("If there is a face" in visit.page.inner_text(".sentence")) == ("No face" in sentence)
    visit.page.evaluate("model.classifiers.forEach((each) => { each.face_crop = 'yunet'; })")
    visit.upload(tmp_path / "photo.png")
    visit.page.wait_for_selector(".note:has-text('2 faces were found. The photo was cut to the largest one')")


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_speaks_korean_too(site: Site, visit: Visit) -> None:
    page = visit.page
    visit.upload(site.photo)
    page.wait_for_selector("text=Most likely")
    before = visit.shown()
    page.click(".explain")
    page.wait_for_selector("figcaption:has-text('Grad-CAM')")
    first, few = (
        [cell.strip() for cell in row.all_inner_texts()]
        for row in (page.locator(f".groups tbody tr:nth-child({number}) > *") for number in (1, 2))
    )
    assert first == ["Gender: male", "20", "50% [36–64]\nmore than the others", "4% [1–7]"]
    assert few[2:] == ["25%\ntoo few to tell", "–"]
    page.click("text=한국어")
    assert "1,068장" in page.inner_text(".groups")
    assert "판단 근거" not in page.inner_text(".explain")
    assert "근거가 있습니다" in page.inner_text("figcaption")
    assert page.evaluate("document.documentElement.lang") == "ko"
    assert page.is_visible("text=가능성이 가장 높음")
    assert visit.shown() == before
    assert not re.search(r"undefined|\{\w+\}", page.inner_text("body"))
    keys = page.evaluate("[Object.keys(TEXTS.en), Object.keys(TEXTS.ko)].map((keys) => keys.sort())")
    assert keys[0] == keys[1]
    page.click("text=English")
    assert page.is_visible("text=Most likely")


@pytest.mark.slow
@pytest.mark.browser
def test_the_keyboard_is_enough(visit: Visit) -> None:
    page, seen = visit.page, []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.tagName"))
        if seen[-1] == "Use the camera":
            break
    assert any("Drop a portrait here" in each for each in seen)
    page.keyboard.press("Enter")
    visit.until("document.activeElement.textContent === 'Take the photo'")
    visit.until("document.querySelector('video').videoWidth > 0")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Most likely")
    for target in ("examples", "where"):
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.parentElement.className") == target:
                break
        page.keyboard.press("Enter")
        if target == "examples":
            visit.until("document.querySelector('.stage img').naturalWidth === 120")
            page.wait_for_selector("text=Most likely")
    visit.until("document.querySelector('#evidence img').naturalWidth === 64")
    page.keyboard.press("Enter")
    visit.until("document.querySelector('#evidence').hidden")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        ("light", PHONE),
        ("dark", DESK),
        *(pytest.param(*one, marks=pytest.mark.soak) for one in (("dark", PHONE), ("light", DESK))),
    ],
)
def test_axe_finds_nothing_serious_and_nobody_need_scroll_sideways(
    site: Site, browser: Any, scheme: str, size: tuple[int, int]
) -> None:
    window = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = window.new_page()
    page.goto(site.url)
    for ready in ("dd", ".task"):
        page.wait_for_selector(ready)
        if ready == ".task":
            page.click(".explain")
            page.wait_for_selector("#evidence img")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert serious_findings(page) == []
        page.set_input_files("input[type=file]", site.photo)
    window.close()


@pytest.mark.slow
def test_ctrl_c_ends_the_command_without_a_traceback(site: Site) -> None:
    """The last test of the site, which it ends."""
    site.process.send_signal(signal.SIGINT)
    out, err = site.process.communicate(timeout=20)
    assert site.process.returncode == 130
    assert "Traceback" not in out + err
    assert err.splitlines()[-1] == "Interrupted."
    assert site.files_left() == []
