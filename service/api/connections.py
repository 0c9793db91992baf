"""What a connection may do before there is a request: a bound on the size of its head, and on the time for it."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.problem import Problem

HEAD_SECONDS = 10.0
# A refused client that is still sending gets so long to see why: closing at once would reset the connection.
LINGER_SECONDS = 2.0
MAX_HEAD_BYTES = 64 * 1024
_INVALID = "invalid_request_error"
_TOO_LARGE = Problem(431, "the request's headers are too large", _INVALID, code="headers_too_large")
_TOO_SLOW = Problem(408, "the request's headers did not arrive in time", _INVALID, code="headers_too_slow")
_UNREADABLE = Problem(400, "this is no HTTP request", _INVALID, code="bad_request")


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection, which by itself would wait for a head for ever, and take one of any size."""

    _head_bytes = 0
    _in_head = True
    _refused = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in data; refuse a head beyond the bound. What comes after a refusal is thrown away."""
        if self._refused:
            return
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Count the bytes of a new head."""
        super().on_message_begin()
        if not self._in_head:
            self._head_bytes = 0
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Stop waiting: the head is there."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the form of every other error."""
        self._refuse(_UNREADABLE)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse, _TOO_SLOW)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, problem: Problem) -> None:
        self._stop_waiting()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        answer = problem.response("", "")
        headers = [(b"connection", b"close"), *answer.raw_headers]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[problem.status] + head + b"\r\n" + bytes(answer.body))
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)
