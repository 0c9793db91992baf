"""The OpenAPI document against the service: whatever is sent, every answer is one it describes, and none is a fault.

`HEADSTART_TEST_API_EXAMPLES` makes the run longer (examples per operation and phase).
"""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from service_live import LiveServer

EXAMPLES = int(os.environ.get("HEADSTART_TEST_API_EXAMPLES", "4"))
CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def document(live_service: LiveServer) -> Any:
    return schemathesis.openapi.from_url(f"{live_service.url}/openapi.json")


described = schemathesis.pytest.from_fixture("document")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Keep what is drawn small, and give it the time it takes: 504 is right for a deadline of a millisecond."""
    if isinstance(body, dict):
        body.pop("deadline_seconds", None)
        for name, most in (("num_inference_steps", 2), ("n", 2)):
            if isinstance(body.get(name), int) and body[name] > most:
                body[name] = most
    return body


@described.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_answer_is_a_described_one(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKED, timeout=60)
