"""What stands before the application: checks of a request's headers and body, and the headers of every answer."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maskcls.serving.web.access import Access
from maskcls.serving.web.bodies import Bodies, ClientGone
from maskcls.serving.web.limits import MAX_HEADER_BYTES
from maskcls.serving.web.refusal import Refused
from maskcls.serving.web.service import Service

log = logging.getLogger("maskcls")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every answer: the page loads nothing from elsewhere, nobody frames it, and no browser keeps an answer."""
_RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """An ASGI application around another one. It keeps a request's body in memory, and answers what it refuses."""

    def __init__(self, app: ASGIApp, service: Service, access: Access, paths: frozenset[str]) -> None:
        self._app = app
        self._service = service
        self._access = access
        self._bodies = Bodies(service.limits, service.metrics.body_bytes)
        self._paths = paths  # that have metrics of their own

    def check_health(self) -> None:
        """Predict one photo. Raises what the classifier raises, and RunError where its probabilities are not finite."""
        self._service.check_model()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_RAW_HEADERS]
            await send(message)

        try:
            await self._checked(scope, receive, send_guarded)
        except ClientGone:
            return
        except Refused as refused:
            await answer(refused, self._service)(scope, receive, send_guarded)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            if status:
                self._service.metrics.requests.labels(path, str(status)).inc()
                self._service.metrics.seconds.labels(path).observe(perf_counter() - began)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            raise Refused(431, "large_headers", f"The headers are larger than {MAX_HEADER_BYTES:,} bytes.")
        self._access.check(scope["path"], headers)
        if scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        self._service.check_room()  # before the body is read
        async with self._bodies.read(headers, receive) as body:
            await self._app(scope, _replay(body), send)


def _replay(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def answer(refused: Refused, service: Service) -> JSONResponse:
    """Return a refusal as an answer, and count it."""
    service.metrics.refusals.labels(refused.code).inc()
    content: Any = refused.to_dict()
    return JSONResponse(content, refused.status, refused.headers)
