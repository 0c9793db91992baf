"""The contract of tracing: spans of a request's way, each within the one that is current where it begins.

Only the outermost layer knows how traces are made; everything else asks `current()` for the span it is in. A span
tells of stages, steps and verdicts: never of a prompt, a tenant or an id other than the trace's own.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

Value = str | int | float | bool


class Span(Protocol):
    """A stretch of time of one trace; times are nanoseconds since the epoch, None = now."""

    @property
    def trace_id(self) -> str:
        """32 hex digits; "" where nothing is traced."""

    def child(self, name: str, since: int | None = None) -> "Span":
        """Begin a span within this one, which may have ended."""

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""

    def fail(self, kind: str) -> None:
        """Mark the span as failed, by one bounded word."""

    def end(self, at: int | None = None) -> None:
        """End the span; only the first call counts."""

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers (W3C Trace Context) that pass the trace on to another service."""


class Tracing(Protocol):
    """Begins a trace per HTTP request."""

    def request(self, method: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a request, within the trace that its `traceparent` names, if any."""

    def close(self) -> None:
        """Send what has not been sent; blocks, for some seconds at most."""


class NoSpan:
    """Where nothing is traced: every method does nothing, and a child is the span itself."""

    trace_id = ""

    def child(self, name: str, since: int | None = None) -> "NoSpan":
        """Return itself."""
        return self

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Do nothing."""

    def fail(self, kind: str) -> None:
        """Do nothing."""

    def end(self, at: int | None = None) -> None:
        """Do nothing."""

    def headers(self) -> dict[str, str]:
        """Return none."""
        return {}


NO_SPAN = NoSpan()
_current: ContextVar[Span] = ContextVar("headstart_span", default=NO_SPAN)


def current() -> Span:
    """Return the span that this task is in."""
    return _current.get()


@contextmanager
def within(span: Span) -> Iterator[None]:
    """Make a span the current one for a block without a `yield`, and for the tasks begun in it."""
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def stage(name: str) -> Iterator[Span]:
    """Trace a block without a `yield` as a span within the current one."""
    span = current().child(name)
    try:
        with within(span):
            yield span
    except BaseException as error:
        span.fail(kind_of(error))
        raise
    finally:
        span.end()


def kind_of(error: BaseException) -> str:
    """Return a bounded word for an error, never its message: that may hold a prompt."""
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else type(error).__name__
