"""Traces by OpenTelemetry, sent to a collector by OTLP over HTTP; needs the extra `otel`.

The standard `OTEL_…` variables hold: sampler, resource, headers, certificates, time limits, batches.
"""

import threading
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.tracing.base import Value

CLOSE_SECONDS = 5.0
# Baggage is neither read nor passed on: it may hold anything.
_W3C = TraceContextTextMapPropagator()
_PASSED_ON = ("traceparent", "tracestate")


class OtelSpan:
    """A span of OpenTelemetry's.

    Args:
        tracer: begins spans.
        span: the span.
    """

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._ended = False

    @property
    def trace_id(self) -> str:
        """32 hex digits; "" where nothing is traced."""
        context = self._span.get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else ""

    def child(self, name: str, since: int | None = None) -> "OtelSpan":
        """Begin a span within this one, which may have ended."""
        context = trace.set_span_in_context(self._span)
        return OtelSpan(self._tracer, self._tracer.start_span(name, context, start_time=since))

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)
        if "http.route" in attributes:
            self._span.update_name(f"{attributes['http.request.method']} {attributes['http.route']}")

    def fail(self, kind: str) -> None:
        """Mark the span as failed, by one bounded word."""
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self, at: int | None = None) -> None:
        """End the span; only the first call counts."""
        if not self._ended:
            self._ended = True
            self._span.end(at)

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers (W3C Trace Context) that pass the trace on to another service."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span))
        return carrier


class OtelTracing:
    """Begins traces and hands finished spans to a processor.

    Args:
        processor: takes finished spans.
    """

    def __init__(self, processor: SpanProcessor) -> None:
        named = Resource({SERVICE_NAME: "headstart", SERVICE_VERSION: version("headstart")})
        # Told by its environment, it is called that.
        self._provider = TracerProvider(
            resource=Resource.create().merge(named).merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("headstart")

    def request(self, method: str, headers: Mapping[str, str]) -> OtelSpan:
        """Begin the span of a request, within the trace that its `traceparent` names, if any."""
        carrier = {name: headers[name] for name in _PASSED_ON if name in headers}
        span = self._tracer.start_span(method, _W3C.extract(carrier), kind=SpanKind.SERVER)
        return OtelSpan(self._tracer, span)

    def close(self) -> None:
        """Send what has not been sent; blocks, for some seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


def exporting_to(endpoint: str | None) -> OtelTracing:
    """Return tracing whose spans go to a collector, in batches, by a thread of their own.

    Args:
        endpoint: address of the collector, to which `/v1/traces` is added; None = as the `OTEL_…` variables say.
    """
    url = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    return OtelTracing(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
