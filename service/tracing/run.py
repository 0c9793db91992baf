"""The spans of a picture's way through the engine, from what the engine tells of it."""

import time

from service.engine.base import JobResult, Progress
from service.tracing.base import Span, Value
from service.types import Verdict

_NANOSECONDS = 1_000_000_000


class RunSpans:
    """Traces a run as `queue`, `denoise` and `decode`.

    They are seen from outside the engine: `denoise` ends with the news of the last step, or as long before the
    picture as decoding took. So they may be off by a step's time; the device seconds beside them are measured.

    Args:
        picture: the span they are within.
    """

    def __init__(self, picture: Span) -> None:
        self._picture = picture
        self._submitted = time.time_ns()
        self._entered: int | None = None
        self._last = self._submitted

    def note(self, event: Progress | JobResult) -> None:
        """Note when the engine told of it."""
        if isinstance(event, Progress):
            self._last = time.time_ns()
            self._entered = self._entered or self._last

    def finish(self, result: JobResult, verdict: Verdict) -> None:
        """Trace a run that ended with a picture."""
        now = time.time_ns()
        decoding = min(self._last, now - _nanoseconds(result.decode_seconds))
        decoding = max(decoding, self._submitted)
        entered = min(self._submitted + _nanoseconds(result.queue_seconds), decoding)
        self._past("queue", self._submitted, entered, {"headstart.engine_restarts": result.restarts})
        spent = {"headstart.device_seconds": result.denoise_seconds, "headstart.steps_run": result.steps_run}
        self._past("denoise", entered, decoding, {**attributes_of(verdict), **spent})
        self._past("decode", decoding, now, {"headstart.device_seconds": result.decode_seconds})

    def fail(self, kind: str) -> None:
        """Trace a run that ended without one: where it was is what failed."""
        now = time.time_ns()
        if self._entered is not None:
            self._past("queue", self._submitted, self._entered, {})
        name, since = ("queue", self._submitted) if self._entered is None else ("denoise", self._entered)
        span = self._picture.child(name, since)
        span.fail(kind)
        span.end(now)

    def _past(self, name: str, since: int, until: int, attributes: dict[str, Value]) -> None:
        span = self._picture.child(name, since)
        span.note(attributes)
        span.end(until)


def attributes_of(verdict: Verdict) -> dict[str, Value]:
    """Return what a span tells of a verdict."""
    return {
        "headstart.verdict": verdict.kind.value,
        "headstart.reason": verdict.reason,
        "headstart.steps": verdict.steps,
        "headstart.skipped": verdict.skipped,
        "headstart.wasted": verdict.wasted,
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)
