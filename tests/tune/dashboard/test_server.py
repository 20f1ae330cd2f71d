"""The dashboard's pages over a run: what they answer, what they refuse, and how they look in a browser."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import call_module
from tests.tune.made_run import add_choice, made_run
from tune.dashboard.server import Server, serving
from tune.runs.folder import SearchRun
from tune.selection.finalists import Design

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SearchRun:
    run = made_run(tmp_path_factory.mktemp("runs"), 24)
    add_choice(run, Design(2, 3))
    return run


@pytest.fixture(scope="module")
def server(run: SearchRun) -> Iterator[Server]:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    with serving(run, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def get(server: Server, path: str) -> Any:
    with urllib.request.urlopen(f"{server.url}{path}") as answer:
        return json.loads(answer.read())


def test_the_pages_have_trials_importances_and_the_metrics_name(server: Server, run: SearchRun) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    (study,) = get(server, "api/studies")["study_summaries"]
    shown = get(server, f"api/studies/{study['study_id']}")
    assert shown["objective_names"] == ["validation macro F1"]
    assert len(shown["trials"]) == 24
    assert {"head", "lr_head"} <= {one["name"] for one in shown["intersection_search_space"]}
    winner = int(run.record().choice["winner"])  # type: ignore[index]
    attrs = {one["key"]: one["value"] for one in shown["trials"][winner]["user_attrs"]}
    assert attrs["role"] == "winner"
    assert shown["trials"][winner]["note"]["body"].startswith("| recipe | value |")
    (importances,) = get(server, f"api/studies/{study['study_id']}/param_importances")["param_importances"]
    assert importances


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "api/studies/0"), ("POST", "api/studies"), ("PUT", "api/studies/0/3/note")]
)
def test_what_would_change_the_run_is_refused(server: Server, run: SearchRun, method: str, path: str) -> None:
    before = run.journal.read_bytes()
    request = urllib.request.Request(f"{server.url}{path}", b'{"body": "x", "version": 2}', method=method)
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(request)
    assert json.loads(refused.value.read()) == {"reason": "This page only shows the run: nothing is changed in it."}
    assert run.journal.read_bytes() == before


@pytest.mark.soak
@pytest.mark.browser
def test_history_and_a_trials_page_are_drawn_without_an_error(server: Server, run: SearchRun) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    errors: list[str] = []
    requested: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{server.url}dashboard/studies/0")
        page.get_by_text("validation macro F1").first.wait_for()
        winner = int(run.record().choice["winner"])  # type: ignore[index]
        page.goto(f"{server.url}dashboard/studies/0/trials?numbers={winner}")
        page.get_by_role("cell", name="backbone").first.wait_for()
        browser.close()
    assert errors == []
    assert [url for url in requested if not url.startswith((server.url, "data:", "blob:"))] == []


def test_a_taken_port_and_an_unknown_run_are_refused(run: SearchRun) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = call_module("tune.dashboard", run.path, "--port", port)
    assert said.status == 2
    assert re.search(rf"127\.0\.0\.1:{port} cannot be served on: .*\. Name another --port\.", said.err)
    said = call_module("tune.dashboard", "nowhere", "--runs", run.path.parent)
    assert said.status == 2
    assert "There is no run 'nowhere'" in said.err
    assert "Runs there: made." in said.err


def test_without_the_package_one_sentence_says_what_to_install(
    run: SearchRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    said = call_module("tune.dashboard", run.path)
    assert said.status == 1
    assert said.err.splitlines()[-1] == (
        "Error: The pages need optuna-dashboard, which is not installed. Install it with: "
        "pip install 'maskcls[dashboard]'"
    )
