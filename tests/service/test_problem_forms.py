"""Errors in the two forms there are."""

import pytest
from service_live import Client

from service.api.problem import Problem, prefers_problem


@pytest.mark.parametrize(
    ("accept", "problem"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/problem+json", True),
        ("application/problem+json, application/json", True),
        ("application/json, application/problem+json;q=0.5", False),
        ("application/json;q=0.5, application/problem+json;q=0.9", True),
        ("application/problem+json;q=0", False),
        ("APPLICATION/PROBLEM+JSON", True),
        (",;q=,,application/problem+json;q=nonsense", True),
    ],
)
def test_accept_chooses(accept: str, problem: bool) -> None:
    assert prefers_problem(accept) is problem


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/images/generations", {"prompt": ""}, 400, "string_too_short"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("POST", "/v1/images/generations", {"prompt": "a", "model": "x"}, 404, "model_not_found"),
        ("PUT", "/v1/jobs", None, 405, "method_not_allowed"),
    ],
)
def test_both_forms_say_the_same(
    client: Client, method: str, path: str, body: dict[str, str] | None, status: int, code: str
) -> None:
    envelope = client.http.request(method, path, json=body)
    problem = client.http.request(method, path, json=body, headers={"Accept": "application/problem+json"})
    assert envelope.status_code == problem.status_code == status
    assert problem.headers["content-type"] == "application/problem+json"
    assert envelope.headers["vary"] == problem.headers["vary"] == "Accept"
    said, error = problem.json(), envelope.json()["error"]
    assert (said["status"], said["code"], said["detail"], said["param"]) == (
        status,
        code,
        error["message"],
        error["param"],
    )
    assert error["code"] == code
    assert said["type"] == f"urn:headstart:error:{code}"
    assert said["instance"].endswith(problem.headers["x-request-id"])


def test_a_status_without_a_standard_phrase_has_a_title() -> None:
    body = bytes(Problem(499, "gone").response("application/problem+json", "r").body)
    assert b"Client Closed Request" in body
