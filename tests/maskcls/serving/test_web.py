from __future__ import annotations

import base64
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from maskcls.errors import CallError, DataError, RunError
from maskcls.serving import web
from maskcls.serving.bundle import read_bundle
from maskcls.serving.predictor import Predictor
from tests.conftest import DemoFaces, Ensemble

RandomBundle = Callable[[str], Path]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CAMERA_SIZE = (640, 480)
START_S = 60


def data_url(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def test_marginals_are_sums_over_the_classes() -> None:
    probabilities = np.arange(18) / np.arange(18).sum()
    by_task = web.marginals(probabilities)
    assert list(by_task) == ["mask3", "gender2", "age3"]
    assert by_task["mask3"]["worn"] == pytest.approx(sum(range(6)) / 153)
    assert by_task["gender2"]["male"] == pytest.approx((0 + 1 + 2 + 6 + 7 + 8 + 12 + 13 + 14) / 153)
    assert by_task["age3"]["over 59"] == pytest.approx((2 + 5 + 8 + 11 + 14 + 17) / 153)
    assert [sum(labels.values()) for labels in by_task.values()] == pytest.approx([1, 1, 1])


def test_a_sent_photo_is_answered_as_its_file_is(random_bundle: RandomBundle, photo_kinds: list[Path]) -> None:
    predictor = Predictor(random_bundle("three"), "cpu")
    for file in photo_kinds:
        sentence, by_task = web.classify(predictor, data_url(file.read_bytes()))
        for task, labels in web.marginals(predictor.probabilities([file])[0]).items():
            assert by_task[task] == pytest.approx(labels, abs=1e-5)
        assert re.fullmatch(r"Most likely \*\*.+, (fe)?male, .+\*\* \(\d+%\)", sentence)


def test_an_ensemble_answers_on_the_page_as_it_does_for_files(
    random_ensemble: Ensemble, photo_kinds: list[Path]
) -> None:
    predictor = Predictor(random_ensemble.folder, "cpu")
    for file in photo_kinds:
        sentence, by_task = web.classify(predictor, data_url(file.read_bytes()))
        for task, labels in web.marginals(predictor.probabilities([file])[0]).items():
            assert by_task[task] == pytest.approx(labels, abs=1e-4)
        assert sentence.startswith("Most likely **")


def test_the_page_says_who_answers(random_bundle: RandomBundle, random_ensemble: Ensemble) -> None:
    said = [web.introduction(read_bundle(folder)) for folder in (random_bundle("three"), random_ensemble.folder)]
    assert "see what the classifier makes of it." in said[0]
    assert "see what 3 classifiers, their probabilities averaged, make of it." in said[1]


def test_what_is_no_photo_is_reported(random_bundle: RandomBundle) -> None:
    predictor = Predictor(random_bundle("single"), "cpu")
    with pytest.raises(DataError, match="The photo is not an image that can be decoded"):
        web.classify(predictor, data_url(b"a poem"))
    with pytest.raises(DataError, match="The photo did not arrive whole"):
        web.classify(predictor, "data:image/jpeg;base64,abc")
    with pytest.raises(DataError, match="The photo did not arrive whole"):
        web.classify(predictor, "data:image/jpeg;base64,ä")


def test_without_gradio_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        RunError, match=r"needs Gradio, which is not installed\. Install it with: pip install 'maskcls\[web\]'"
    ):
        web.import_gradio()


def test_a_taken_port_is_a_wrong_call(random_bundle: RandomBundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            CallError, match=rf"127\.0\.0\.1:{port} cannot be served on: Address already in use\. Name another --port"
        ):
            web.serve(Predictor(random_bundle("single"), "cpu"), "127.0.0.1", port)


def test_an_ipv6_address_is_served(random_bundle: RandomBundle) -> None:
    pytest.importorskip("gradio", reason="the page needs Gradio (the extra `web`)")
    predictor = Predictor(random_bundle("single"), "cpu")
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6 here")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(CallError, match=rf"\[::1\]:{port} cannot be served on: Address already in use"):
            web.serve(predictor, "::1", port)
    page = web.serve(predictor, "::1", port)
    try:
        assert web.url_of("::1", port) == f"http://[::1]:{port}/"
        with urllib.request.urlopen(web.url_of("::1", port), timeout=10) as answer:
            assert answer.status == 200
    finally:
        page.close()


def test_the_hubs_client_sends_no_telemetry_though_it_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="the page needs Gradio (the extra `web`)")
    from huggingface_hub import constants
    from huggingface_hub.utils._headers import build_hf_headers

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    assert "torch/" in build_hf_headers()["user-agent"]
    web.import_gradio()
    assert "torch/" not in build_hf_headers()["user-agent"]


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
    pytest.importorskip("gradio", reason="the page needs Gradio (the extra `web`)")
    folder = tmp_path_factory.mktemp("site")
    scratch = folder / "scratch"
    scratch.mkdir()
    drawn = sorted(demo_faces(6, 0).glob("train/images/*/normal.*"))
    photo = next(file for file in drawn if not file.name.startswith("."))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "maskcls.serve",
            "--bundle",
            random_bundle("three"),
            "--port",
            str(port),
            "--device",
            "cpu",
        ],
        cwd=scratch,
        env={"PATH": "/usr/bin:/bin", "HOME": str(scratch), "TMPDIR": str(scratch), "MPLCONFIGDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found = Site(f"http://127.0.0.1:{port}/", scratch, photo, process)
    try:
        _await(found)
        yield found
    finally:
        process.kill()
        process.wait()


def _await(site: Site) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and site.process.poll() is None:
        try:
            urllib.request.urlopen(site.url, timeout=5).close()
            return
        except urllib.error.URLError:
            time.sleep(0.2)
    site.process.kill()
    pytest.fail(f"The page did not come up: {site.process.communicate()}")


@dataclass
class Visit:
    """A page in Chromium, and what it asked of whom."""

    page: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def shown(self) -> dict[str, dict[str, int]]:
        """The percentages on the page: task -> label -> percent."""
        labels: dict[str, dict[str, int]] = {}
        for task in web.SHOWN:
            lines = [line for line in self.page.inner_text(f"#{task}").splitlines() if line.strip()]
            values = [int(line.rstrip("%")) for line in lines if re.fullmatch(r"\d+%", line)]
            names = [line for line in lines if line in _label_names(task)]
            labels[task] = dict(zip(names, values, strict=True))
        return labels


def _label_names(task: str) -> tuple[str, ...]:
    from maskcls.tasks import TASKS

    return TASKS[task].label_names


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
    window = browser.new_context(viewport={"width": 1100, "height": 760})
    page = window.new_page()
    page.set_default_timeout(START_S * 1000)
    found = Visit(page)
    page.on("request", lambda request: found.asked.append(request.url))
    page.on("console", lambda message: found.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.goto(site.url)
    page.wait_for_selector("text=Drop a portrait here")
    yield found
    window.close()


@pytest.mark.browser
def test_an_uploaded_photo_is_answered_as_predict_answers_it_and_is_kept_nowhere(
    site: Site, visit: Visit, random_bundle: RandomBundle
) -> None:
    visit.page.set_input_files("input[type=file]", site.photo)
    visit.page.wait_for_selector("text=Most likely")
    expected = web.marginals(Predictor(random_bundle("three"), "cpu").probabilities([site.photo])[0])
    shown = visit.shown()
    assert shown.keys() == expected.keys()
    for task, labels in expected.items():
        assert shown[task] == {name: pytest.approx(100 * p, abs=0.51) for name, p in labels.items()}
    assert visit.page.evaluate("document.querySelector('.stage img').naturalWidth") > 0  # and the browser shows it
    assert site.files_left() == []
    assert visit.complaints == []


@pytest.mark.browser
def test_the_camera_takes_a_photo_which_is_answered_and_goes_off(site: Site, visit: Visit) -> None:
    page = visit.page
    page.click("text=Use the camera")
    page.wait_for_function("document.querySelector('video').videoWidth > 0")
    page.click("text=Take the photo")
    page.wait_for_selector("text=Most likely")
    assert [sum(labels.values()) for labels in visit.shown().values()] == pytest.approx([100] * 3, abs=1.5)
    size = page.evaluate(
        "[document.querySelector('.stage img').naturalWidth, document.querySelector('.stage img').naturalHeight]"
    )
    assert tuple(size) == CAMERA_SIZE
    assert page.evaluate("document.querySelector('video').srcObject") is None
    assert page.is_visible("text=Use the camera")
    assert site.files_left() == []
    assert visit.complaints == []


@pytest.mark.browser
def test_what_is_no_photo_is_said_and_the_page_goes_on(site: Site, visit: Visit, tmp_path: Path) -> None:
    poem = tmp_path / "poem.jpg"
    poem.write_text("Shall I compare thee")
    visit.page.set_input_files("input[type=file]", poem)
    visit.page.wait_for_selector("text=The photo is not an image that can be decoded")
    assert visit.shown() == {"mask3": {}, "gender2": {}, "age3": {}}
    visit.page.set_input_files("input[type=file]", site.photo)
    visit.page.wait_for_selector("text=Most likely")


@pytest.mark.browser
def test_the_page_asks_nobody_but_its_own_server(site: Site, visit: Visit) -> None:
    visit.page.set_input_files("input[type=file]", site.photo)
    visit.page.wait_for_selector("text=Most likely")
    assert len(visit.asked) > 5
    assert [url for url in visit.asked if not url.removeprefix("blob:").startswith(site.url)] == []


def test_gradios_own_upload_route_takes_nothing(site: Site) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + bytes(100) + b"\r\n--x--\r\n"
    )
    request = urllib.request.Request(
        f"{site.url}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 413
    assert site.files_left() == []


def test_ctrl_c_ends_the_door_without_a_traceback(site: Site) -> None:
    """The last test of the site, which it ends."""
    site.process.send_signal(signal.SIGINT)
    out, err = site.process.communicate(timeout=20)
    assert site.process.returncode == 130
    assert site.url in out
    assert "Traceback" not in err
    assert site.files_left() == []
