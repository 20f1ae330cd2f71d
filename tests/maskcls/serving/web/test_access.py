from __future__ import annotations

import base64

import pytest
from starlette.testclient import TestClient

from maskcls.errors import CallError
from maskcls.serving.web.access import Access
from maskcls.serving.web.guard import HEADERS
from maskcls.serving.web.refusal import Refused
from tests.maskcls.serving.web.conftest import Serving
from tests.maskcls.serving.web.test_api import error_of, form


def code_of(access: Access, path: str = "/v1/predict", **headers: str) -> str:
    try:
        access.check(path, headers)
    except Refused as refused:
        return refused.code
    return "answered"


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:7860", "answered"),
        ("localhost", "answered"),
        ("LOCALHOST:1", "answered"),
        ("[::1]:7860", "answered"),
        ("attacker.example", "unknown_host"),
        ("attacker.example:7860", "unknown_host"),
        ("127.0.0.1.attacker.example", "unknown_host"),
        ("localhost@attacker.example", "unknown_host"),
        ("10.0.0.7", "unknown_host"),
        ("[::1", "unknown_host"),
        ("", "unknown_host"),
    ],
)
def test_only_names_of_the_service_are_answered(host: str, code: str) -> None:
    """DNS rebinding: a foreign name that leads to this machine is refused."""
    assert code_of(Access("127.0.0.1"), host=host) == code


def test_beyond_loopback_addresses_and_named_hosts_are_answered() -> None:
    access = Access("0.0.0.0", ["Faces.example"])
    for host in ("10.0.0.7:7860", "[fe80::1]", "faces.example", "faces.example.", "localhost"):
        assert code_of(access, host=host) == "answered"
    assert code_of(access, host="other.example") == "unknown_host"


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("http://127.0.0.1:7860", "answered"),
        ("https://127.0.0.1:7860", "answered"),  # behind a proxy that speaks TLS
        ("https://faces.example", "answered"),  # behind one that does not pass on the Host
        ("http://127.0.0.1", "foreign_origin"),
        ("http://127.0.0.1:7861", "foreign_origin"),
        ("https://attacker.example", "foreign_origin"),
        ("file://", "foreign_origin"),
        ("null", "foreign_origin"),
        ("", "foreign_origin"),
    ],
)
def test_pages_of_other_sites_are_refused(origin: str, code: str) -> None:
    assert code_of(Access("127.0.0.1", ["faces.example"]), host="127.0.0.1:7860", origin=origin) == code


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_user_and_password() -> None:
    access = Access("127.0.0.1", auth="ann:a:b")
    host = {"host": "127.0.0.1"}
    assert code_of(access, **host, authorization=basic("ann:a:b")) == "answered"
    for given in ("", "Basic", "Basic !", "Basic ä", "Bearer x", basic("ann:"), basic("ann:a"), basic("ann:a:b ")):
        assert code_of(access, **host, authorization=given) == "unauthorized"
    assert code_of(access, "/metrics", **host) == "unauthorized"
    assert code_of(access, "/healthz", **host) == code_of(access, "/readyz", **host) == "answered"
    for wrong in ("ann", "ann:", ":b", ""):
        with pytest.raises(CallError, match="--auth expects USER:PASSWORD"):
            Access("127.0.0.1", auth=wrong)


@pytest.mark.slow
def test_a_password_is_asked_for_by_the_browser(serving: Serving) -> None:
    with serving(Access("127.0.0.1", auth="ann:secret")) as client:
        refused = client.get("/")
        assert error_of(refused) == (401, "unauthorized")
        assert refused.headers["www-authenticate"].startswith("Basic realm=")
        assert client.get("/", auth=("ann", "secret")).status_code == 200


def test_every_answer_has_the_headers_that_guard_the_browser(client: TestClient, drawn_face: bytes) -> None:
    answers = [
        client.get("/"),
        client.get("/page.js"),
        client.get("/nowhere"),
        client.get("/healthz"),
        client.post("/v1/predict", files=form(drawn_face)),
        client.post("/v1/predict", files=form(b"")),
        client.get("/", headers={"host": "attacker.example"}),
        client.post("/v1/predict", headers={"origin": "null"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 200, 200, 422, 421, 403]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "frame-ancestors 'none'" in HEADERS["content-security-policy"]
    assert "unsafe" not in HEADERS["content-security-policy"]
