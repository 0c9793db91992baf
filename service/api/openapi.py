"""The OpenAPI document: what the framework finds out, and what holds for every route."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from service.api.documented import IMAGE_EVENT_PARTS, UNAUTHORIZED_ERROR
from service.api.gate import PROBES
from service.api.problem import PROBLEM_JSON, RETRIED
from service.api.schema import ErrorBody, ProblemBody
from service.api.schema_jobs import PreviewBody

_TEXT = {"type": "string"}
_REQUEST_ID = {
    "schema": _TEXT,
    "description": "Names the request in the log: the client's, if it sent one, else ours.",
}
_SHOULD_RETRY = {"schema": {"type": "string", "enum": ["true", "false"]}, "description": "Whether to try again."}
_RETRY_AFTER = {"schema": {"type": "string"}, "description": "In so many seconds, where that can be told."}
# Errors that depend on nothing a route does.
_WITH_BODY = {
    "400": "The body is not a JSON object, or a field is wrong; `error.param` names it.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
}
_ALWAYS = {"500": "A bug; the message names the request.", "503": "Not now."}


def describe(app: FastAPI) -> None:
    """Make the application's document complete; it is built once, at the first request for it."""
    found = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(found())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    parts = document["components"]["schemas"]
    parts |= IMAGE_EVENT_PARTS
    for model in (ErrorBody, ProblemBody, PreviewBody):
        schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        parts |= schema.pop("$defs", {})
        parts[model.__name__] = schema
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path not in PROBES:
                _guard(operation)
            _complete(operation)
    for name in ("HTTPValidationError", "ValidationError"):
        parts.pop(name, None)
    return document


def _guard(operation: dict[str, Any]) -> None:
    """Say that a key is needed, once there is one."""
    operation["security"] = [{"key": []}, {}]
    operation["responses"]["401"] = {"description": UNAUTHORIZED_ERROR[401]["description"]}


def _complete(operation: dict[str, Any]) -> None:
    answers: dict[str, Any] = operation["responses"]
    # A wrong field is answered with the envelope and 400; 422 stays only where a route says so itself.
    if "HTTPValidationError" in str(answers.get("422")):
        del answers["422"]
    common = {**_ALWAYS, **(_WITH_BODY if "requestBody" in operation else {})}
    for status, text in common.items():
        answers.setdefault(status, {"description": text})
    for status, answer in answers.items():
        headers = answer.setdefault("headers", {})
        headers["X-Request-Id"] = _REQUEST_ID
        if int(status) >= 400:
            headers["x-should-retry"] = _SHOULD_RETRY
            _add_error(answer)
            if int(status) in RETRIED:
                headers["Retry-After"] = _RETRY_AFTER
    operation["responses"] = dict(sorted(answers.items()))


def _add_error(answer: dict[str, Any]) -> None:
    """Name both forms of an error, unless the answer is none of these (`/readyz`)."""
    content = answer.setdefault("content", {})
    if "ErrorBody" in str(content) or not content:
        content["application/json"] = {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
        content[PROBLEM_JSON] = {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
