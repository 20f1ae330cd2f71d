"""Requests that Schemathesis makes from the OpenAPI: the service answers as it describes itself, whatever comes."""

from __future__ import annotations

from collections import Counter

import pytest

from maskcls.serving.predictor import Predictor
from maskcls.serving.web.access import Access
from maskcls.serving.web.app import build_app
from maskcls.serving.web.limits import Limits

pytest.importorskip("schemathesis")
import schemathesis
from schemathesis.engine import events, from_schema

FEW, MANY = 10, 2000
"""Requests that are drawn for each operation, beside those that cover the schema's bounds and all methods."""


@pytest.mark.parametrize(
    "drawn",
    [
        pytest.param(FEW, marks=pytest.mark.slow),
        pytest.param(MANY, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_the_service_answers_as_its_openapi_says(predictor: Predictor, drawn: int) -> None:
    app = build_app(predictor, Limits(), Access("127.0.0.1", ["testserver"]))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    schema.config.generation.update(max_examples=drawn, deterministic=True)
    schema.config.checks.positive_data_acceptance.enabled = False  # no schema can say which bytes are a photo
    rejected = schema.config.checks.negative_data_rejection
    rejected.expected_statuses = [*(rejected.expected_statuses or ()), "413"]  # more photos than a request may have
    statuses, failures, errors = Counter[int](), set[str](), []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            errors.append(f"{event.label}: {event.value}")
        elif isinstance(event, events.ScenarioFinished | events.FuzzScenarioFinished):
            statuses.update(each.response.status_code for each in event.recorder.interactions.values() if each.response)
            checks = [check for of_case in event.recorder.checks.values() for check in of_case]
            failures |= {
                f"{event.recorder.label}: {check.failure_info.failure}\n{check.failure_info.code_sample}"
                for check in checks
                if check.failure_info is not None
            }
    print(f"{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    assert failures == set()
    assert errors == []
    assert {200, 400, 405} <= set(statuses)
