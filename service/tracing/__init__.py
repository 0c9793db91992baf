"""Traces: `base` states the contract; they are off until a collector is named."""

import logging
import os

from service.tracing.base import NO_SPAN, Span, Tracing, current, kind_of, stage, within
from service.tracing.off import NoTracing

__all__ = ["NO_SPAN", "NoTracing", "Span", "Tracing", "TracingError", "current", "kind_of", "open_tracing"]
__all__ += ["stage", "within"]

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_MISSING = 'the extra for them is not installed: pip install "headstart[otel]"'


class TracingError(Exception):
    """Traces were asked for and cannot be made; the message is one clear line."""


def open_tracing(endpoint: str | None) -> Tracing:
    """Return what makes traces: sent to `endpoint`, else to where the standard `OTEL_…` variables say, else none.

    Those variables may have been set for other programs, so what they ask for in vain is a warning.

    Raises:
        TracingError: `endpoint` is given, and they cannot be made.
    """
    if _switched_off() or (endpoint is None and not _first(_ENDPOINTS)):
        return NoTracing()
    try:
        if endpoint is None and _first(_PROTOCOLS) not in ("", "http/protobuf"):
            raise TracingError("OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is spoken")
        return _exporting_to(endpoint)
    except TracingError as error:
        if endpoint is not None:
            raise
        log.warning("no traces: %s", error)
        return NoTracing()


def _exporting_to(endpoint: str | None) -> Tracing:
    try:
        from service.tracing.otel import exporting_to
    except ImportError:
        raise TracingError(f"HEADSTART_TRACES_ENDPOINT: {_MISSING}" if endpoint else _MISSING) from None
    try:
        return exporting_to(endpoint)
    except Exception as error:  # the exporter reads a dozen variables, each in its own way
        raise TracingError(f"an OTEL_… variable has a bad value ({type(error).__name__})") from None


def _switched_off() -> bool:
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").lower() == "none"


def _first(variables: tuple[str, ...]) -> str:
    return next((value for name in variables if (value := os.environ.get(name, ""))), "")
