"""The service as one ASGI application: the page and its API, for `maskcls serve` or any other server."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from maskcls.serving.predictor import Predictor
from maskcls.serving.web.access import Access
from maskcls.serving.web.answers import (
    Answer,
    ErrorAnswer,
    Explanation,
    ModelFacts,
    State,
    explanation,
    model_facts,
    prediction,
)
from maskcls.serving.web.examples import draw_examples
from maskcls.serving.web.guard import Guard, answer
from maskcls.serving.web.limits import Limits
from maskcls.serving.web.metrics import CONTENT_TYPE
from maskcls.serving.web.refusal import Refused
from maskcls.serving.web.request_body import FIELD
from maskcls.serving.web.service import Service

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_BASE64 = {"type": "string", "format": "byte", "minLength": 4}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "application/json": {
                "schema": {
                    "oneOf": [
                        {
                            "type": "object",
                            "required": [key],
                            "additionalProperties": False,
                            "properties": {key: schema},
                        }
                        for key, schema in (
                            ("image", _BASE64),
                            ("images", {"type": "array", "minItems": 1, "items": _BASE64}),
                        )
                    ]
                }
            },
        },
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in (
        (400, "The body is malformed."),
        (401, "User and password are missing or wrong."),
        (403, "Another site's page asks."),
        (408, "The body took too long."),
        (413, "The body is too large, or has too many photos."),
        (415, "The body is neither a form nor JSON."),
        (421, "The service is not known under this name."),
        (422, "A photo cannot be used."),
        (431, "The headers are too large."),
        (429, "Too many photos wait; see Retry-After."),
        (503, "It took too long, or the service is short of memory; see Retry-After."),
    )
}


def build_app(predictor: Predictor, limits: Limits, access: Access, *, face_check: bool = True) -> Guard:
    """Build the application. What it starts (threads) ends with its lifespan.

    Raises:
        RunError: the bundle's probabilities are not finite.
    """
    service = Service(predictor, limits, face_check=face_check)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # What was loaded lives as long as the service: no garbage collection of a request needs to walk over it.
        gc.collect()
        gc.freeze()
        yield
        gc.unfreeze()
        service.close()

    app = FastAPI(
        title="maskcls",
        summary="Mask, gender and age group of a portrait.",
        version=version("maskcls"),
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        # The service has metrics of its own; FastAPI's go wherever a library such as Ray has set OpenTelemetry to.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=lifespan,
    )
    app.add_exception_handler(Refused, lambda request, error: answer(_as_refused(error), service))
    app.add_exception_handler(StarletteHTTPException, lambda request, error: answer(_as_refused(error), service))
    _add_api(app, service)
    _add_page(app)
    paths = frozenset(path for path in (getattr(route, "path", "") for route in app.routes) if "{" not in path)
    return Guard(app, service, access, paths)


def _as_refused(error: Exception) -> Refused:
    """A refusal as it is; the framework's own errors, as for an unknown path, in the same form."""
    if isinstance(error, Refused):
        return error
    assert isinstance(error, StarletteHTTPException)
    return Refused(error.status_code, "http", str(error.detail), headers=error.headers)


def _add_api(app: FastAPI, service: Service) -> None:
    facts = model_facts(service.predictor.bundle, service.limits, service.predictor.abstain, explains=service.explains)

    @app.post("/v1/predict", openapi_extra=_BODY, responses=_REFUSALS, response_model=Answer)
    async def predict(request: Request) -> Response:
        """Classify photos: each a field `file` of a form, or base64 in JSON."""
        found = await service.predict(request.headers.get("content-type", ""), await request.body())
        answered = Answer(predictions=[prediction(each, service.predictor.abstain) for each in found])
        # As text: an Answer would be checked a second time.
        return Response(answered.model_dump_json(by_alias=True), media_type="application/json")

    async def explain(request: Request) -> Explanation:
        """Say where in one photo, sent as to /v1/predict, the evidence for its class lies."""
        return explanation(await service.explain(request.headers.get("content-type", ""), await request.body()))

    if service.explains:
        app.post("/v1/explain", openapi_extra=_BODY, responses=_REFUSALS)(explain)

    @app.get("/v1/model")
    async def model() -> ModelFacts:
        """Describe the classifier and the limits of a request."""
        return facts

    @app.get("/healthz")
    async def healthz() -> State:
        """Say that the process answers."""
        return State(status="ok")

    @app.get("/readyz", responses={503: {"model": ErrorAnswer, "description": "The queue is full."}})
    async def readyz() -> State:
        """Say whether photos are taken now."""
        if service.is_full:
            raise Refused(503, "busy", "The queue is full.")
        return State(status="ready")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Report counts, times and memory in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    folder = resources.files(__package__)
    contents = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()}
    for number, photo in enumerate(draw_examples()):
        contents[f"/examples/{number}.jpg"] = (photo, "image/jpeg")
    for path, (content, kind) in contents.items():
        app.add_api_route(path, _serving(content, kind), include_in_schema=False, response_class=Response)


def _serving(content: bytes, kind: str) -> Any:
    async def serve() -> Response:
        return Response(content, media_type=kind)

    return serve
