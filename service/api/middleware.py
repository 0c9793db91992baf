"""Around every HTTP request: an id, a bound on the body, one log line, one count, and no leak on a bug."""

import asyncio
import logging
import re
import time
import uuid
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import STOPPING, log_unexpected, problem_of
from service.api.problem import CLIENT_GONE, Problem
from service.logs import bound
from service.metrics import Metrics
from service.tracing import NO_SPAN, Span, Tracing, within

log = logging.getLogger("headstart.access")

TOO_MANY = 429
SERVER_ERRORS = 500
MAX_BODY_BYTES = 1_000_000
# A client that sends its body drop by drop holds a connection and little else, but not for ever.
BODY_SECONDS = 15.0
# Pictures take their time over a slow line: each part of them buys more.
LEAST_BYTES_PER_SECOND = 16_384
# Reading on a little lets a client that is still sending see the answer instead of a reset connection.
MAX_DISCARDED_BYTES = 32_000_000
DISCARD_SECONDS = 5.0
# Routes that take pictures, by what their paths look like; the first of them take an `Idempotency-Key`.
KEYED_UPLOADS = ("/v1/images/edits", "/v1/images/variations")
UPLOADS = {
    route: re.compile(route.replace("{generation_id}", "[0-9a-f]{32}"))
    for route in (*KEYED_UPLOADS, "/v1/generations/{generation_id}/replay")
}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET_ROUTES = ("/livez", "/readyz", "/startupz", "/metrics")


def upload_route(path: str) -> str | None:
    """Return the template of the route that takes pictures at a path, None where there is none."""
    return next((route for route, pattern in UPLOADS.items() if pattern.fullmatch(path)), None)


class Envelope:
    """The outermost layer of the application.

    Args:
        app: the layer below.
        metrics: where requests are counted.
        tracing: traces them.
        upload_bytes: most bytes of a body that holds pictures.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing, upload_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._upload_bytes if upload_route(scope["path"]) else MAX_BODY_BYTES
        exchange = _Exchange(scope, receive, send, most)
        span = self._span(scope)
        with within(span), bound(request_id=exchange.request_id, trace_id=span.trace_id):
            try:
                await self._answer(exchange)
            finally:
                self._note(exchange)
                exchange.close(span)

    def _span(self, scope: Scope) -> Span:
        if scope["path"] in QUIET_ROUTES:
            return NO_SPAN
        return self._tracing.request(scope["method"], Headers(scope=scope))

    async def _answer(self, exchange: "_Exchange") -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            # The time to drain is over: say so rather than break the connection.
            if not exchange.status:
                await exchange.refuse(STOPPING)
            raise
        except Exception as error:
            await self._answer_bug(exchange, error)

    async def _answer_bug(self, exchange: "_Exchange", error: Exception) -> None:
        log_unexpected(error, exchange.request_id)
        if exchange.status:
            raise ConnectionAbortedError("the answer broke off") from None
        await exchange.refuse(problem_of(error, exchange.request_id))

    def _note(self, exchange: "_Exchange") -> None:
        status = exchange.status or CLIENT_GONE
        if status == TOO_MANY:
            self._metrics.rejected.labels(exchange.scope["state"].get("refused", "other")).inc()
        cache = exchange.scope["state"].get("cache_label", "none")
        self._metrics.requests.labels(exchange.route, str(status), cache).inc()
        if cache != "none":
            self._metrics.duration.labels(cache).observe(exchange.elapsed)
        level = logging.DEBUG if exchange.route in QUIET_ROUTES else logging.INFO
        log.log(
            level,
            "request",
            extra={
                "request_id": exchange.request_id,
                "method": exchange.scope["method"],
                "route": exchange.route,
                "status": status,
                "seconds": round(exchange.elapsed, 4),
                "cache": cache,
            },
        )


class _Exchange:
    """One request and what is known of its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, most_bytes: int) -> None:
        self.scope = scope
        self._most_bytes = most_bytes
        self.status = 0
        self.request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()
        self._bytes = 0
        self._complete = False
        scope.setdefault("state", {})["request_id"] = self.request_id

    @property
    def elapsed(self) -> float:
        """Seconds since the request came in."""
        return time.perf_counter() - self._started

    @property
    def route(self) -> str:
        """The path's template, never the path itself: the label stays bounded."""
        route = self.scope.get("route")
        # A layer above the routes that answers by itself may say which of them it spoke for.
        template: str = self.scope["state"].get("route", "unmatched") if route is None else route.path
        return template

    def close(self, span: Span) -> None:
        """End the request's span."""
        status = self.status or CLIENT_GONE
        span.note(
            {
                "http.request.method": self.scope["method"],
                "http.route": self.route,
                "http.response.status_code": status,
            }
        )
        if status >= SERVER_ERRORS:
            span.fail(str(status))
        span.end()

    async def receive(self) -> Message:
        """Pass on a message; refuse bodies over the bound."""
        if self._complete:
            return await self._receive()
        message = await self._body_part()
        if message["type"] == "http.request":
            self._complete = not message.get("more_body", False)
            self._bytes += len(message.get("body", b""))
            if self._bytes > self._most_bytes:
                await self._discard(message)
                raise HTTPException(413)
        return message

    async def send(self, message: Message) -> None:
        """Pass on a message; note the status and name the request."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self.request_id
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with an error, in the form the client prefers."""
        await problem.answer(self.scope, self.receive, self.send)

    async def _body_part(self) -> Message:
        now = time.perf_counter()
        earned = self._bytes / LEAST_BYTES_PER_SECOND if self._most_bytes > MAX_BODY_BYTES else 0.0
        try:
            async with asyncio.timeout(min(BODY_SECONDS, self._started + BODY_SECONDS + earned - now)):
                return await self._receive()
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None

    async def _discard(self, message: Message) -> None:
        most = self._most_bytes + MAX_DISCARDED_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while message.get("more_body", False) and self._bytes < most:
                    message = await self._receive()
                    self._bytes += len(message.get("body", b""))


def _request_id(given: str | None) -> str:
    return given if given is not None and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
