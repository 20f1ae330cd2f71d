"""Pages in a real Chromium: what it complains of, what it asks of a network, and what axe-core finds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = (390, 844), (1280, 900)


@contextmanager
def opened(file: Path, size: tuple[int, int] = PHONE, *, dark: bool = False) -> Iterator[Any]:
    """A page in Chromium. Errors of the console, and requests other than for the page itself, fail the test.

    Skips where there is no Chromium or no playwright.
    """
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright (the extra `dev`)")
    complaints: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        screen = {"viewport": {"width": size[0], "height": size[1]}, "color_scheme": "dark" if dark else "light"}
        page = browser.new_context(**screen).new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        yield page
        browser.close()
    assert complaints == []
    assert [url for url in asked if url != file.as_uri() and not url.startswith(("data:", "blob:"))] == []


def serious_findings(page: Any) -> list[str]:
    """What axe-core finds that is serious or critical, one line each. Skips where axe-core is not there."""
    axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python (the extra `dev`)")
    page.evaluate(axe.AXE_SCRIPT)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
    ]
