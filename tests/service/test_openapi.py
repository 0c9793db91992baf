"""The OpenAPI document against the service: whatever is sent, every answer is one it describes, and none is a fault.

`HEADSTART_TEST_API_EXAMPLES` makes the run longer (examples per operation and mode).
"""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
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


def _small(body: Any) -> Any:
    """Keep what is drawn small, and give it the time it takes: 504 is right for a deadline of a millisecond."""
    if isinstance(body, dict):
        body.pop("deadline_seconds", None)
        for name, most in (("num_inference_steps", 2), ("n", 2)):
            if isinstance(body.get(name), int) and body[name] > most:
                body[name] = most
    return body


def _try(operation: Any, mode: GenerationMode) -> int:
    """Send examples of one operation, return how many."""
    sent = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def send(case: schemathesis.Case) -> None:
        nonlocal sent
        case.body = _small(case.body)
        case.call_and_validate(checks=CHECKED, timeout=60)
        sent += 1

    try:
        send()
    except Unsatisfiable:  # there is nothing to send wrongly
        assert mode is GenerationMode.NEGATIVE
    except BaseException as error:
        error.add_note(operation.label)
        raise
    return sent


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_answer_is_a_described_one(live_service: LiveServer, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{live_service.url}/openapi.json")
    sent = {found.ok().label: _try(found.ok(), mode) for found in document.get_all_operations()}
    assert len(sent) >= 25
    assert sum(count > 0 for count in sent.values()) >= 18
