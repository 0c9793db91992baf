"""One error, two forms: OpenAI's envelope, or `application/problem+json` (RFC 9457) where the client prefers that."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from service.api.schema import ErrorBody, ErrorDetail, ProblemBody

SERVER = "server_error"
CLIENT_GONE = 499
PROBLEM_JSON = "application/problem+json"
RETRIED = (409, 429, 503)
_QUALITY = re.compile(r"q=([01](?:\.\d{0,3})?)")


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client sees it."""

    status: int
    message: str
    type: str = SERVER
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> dict[str, Any]:
        """The JSON envelope."""
        detail = ErrorDetail(message=self.message, type=self.type, param=self.param, code=self.code)
        return ErrorBody(error=detail).model_dump()

    def response(self, accept: str, request_id: str) -> Response:
        """Return the HTTP answer; `x-should-retry` tells the official client what a status alone cannot.

        Args:
            accept: the request's `Accept` header, which chooses the form.
            request_id: the request's id.
        """
        again = self.status in (429, 503) or "Retry-After" in self.headers
        headers = {"x-should-retry": "true" if again else "false", "Vary": "Accept", **self.headers}
        if prefers_problem(accept):
            return JSONResponse(self._problem(request_id), self.status, headers=headers, media_type=PROBLEM_JSON)
        return JSONResponse(self.body, self.status, headers=headers)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that no route gets to see, in the form its client prefers."""
        accept = Headers(scope=scope).get("accept", "")
        await self.response(accept, scope["state"]["request_id"])(scope, receive, send)

    def _problem(self, request_id: str) -> dict[str, Any]:
        known = self.status in HTTPStatus.__members__.values()
        return ProblemBody(
            type=f"urn:headstart:error:{self.code or 'unknown'}",
            title=HTTPStatus(self.status).phrase if known else "Client Closed Request",
            status=self.status,
            detail=self.message,
            instance=f"urn:headstart:request:{request_id}",
            code=self.code,
            param=self.param,
        ).model_dump()


def prefers_problem(accept: str) -> bool:
    """Return whether `Accept` names `application/problem+json`, and at least as gladly as plain JSON."""
    qualities = {PROBLEM_JSON: 0.0, "application/json": 0.0}
    for part in accept.lower().split(","):
        name, _, parameters = part.strip().partition(";")
        if name.strip() in qualities:
            quality = _QUALITY.search(parameters)
            qualities[name.strip()] = float(quality[1]) if quality else 1.0
    return qualities[PROBLEM_JSON] > 0 and qualities[PROBLEM_JSON] >= qualities["application/json"]
