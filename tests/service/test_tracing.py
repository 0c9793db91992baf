"""Tracing in this process: when it is on, what it costs when it is off, and how it is refused."""

import asyncio
import sys
import time

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from service_samples import plan, result
from typer.testing import CliRunner

from service.cli import app
from service.settings import SettingsError, load_settings
from service.tracing import NO_SPAN, NoTracing, TracingError, current, open_tracing, stage, within
from service.tracing.otel import OtelTracing, exporting_to
from service.tracing.run import RunSpans
from service.verdicts import run_verdict

PARENT = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "PROTOCOL", "TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(memory: InMemorySpanExporter) -> OtelTracing:
    return OtelTracing(SimpleSpanProcessor(memory))


def test_off_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_tracing(None), NoTracing)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing = open_tracing(None)
    assert isinstance(tracing, OtelTracing)
    tracing.close()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert isinstance(open_tracing("http://127.0.0.1:9"), NoTracing)
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert isinstance(open_tracing(None), NoTracing)


def test_what_the_environment_asks_for_in_vain_is_a_warning(monkeypatch, caplog) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert isinstance(open_tracing(None), NoTracing)
    assert "only http/protobuf" in caplog.text
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    monkeypatch.setitem(sys.modules, "service.tracing.otel", None)
    assert isinstance(open_tracing(None), NoTracing)
    assert "headstart[otel]" in caplog.text


def test_without_the_extra_the_setting_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.tracing.otel", None)
    with pytest.raises(TracingError, match="headstart\\[otel\\]"):
        open_tracing("http://127.0.0.1:9")
    done = CliRunner().invoke(app, ["serve"], env={"HEADSTART_TRACES_ENDPOINT": "http://127.0.0.1:9"})
    assert done.exit_code == 2
    assert done.stderr.strip().count("\n") == 0
    assert "headstart[otel]" in done.stderr


@pytest.mark.parametrize(
    "url", ["collector:4318", "grpc://collector", "http://", "http://me:pass@host", "http://h/?a=b"]
)
def test_a_bad_address_is_one_line_without_what_it_holds(url: str) -> None:
    with pytest.raises(SettingsError, match="HEADSTART_TRACES_ENDPOINT: ") as caught:
        load_settings(traces_endpoint=url)
    assert "pass" not in str(caught.value)


def test_where_nothing_is_traced_spans_are_one_object_that_does_nothing() -> None:
    assert NoTracing().request("GET", PARENT) is NO_SPAN
    with stage("anything") as span:
        assert span is current() is NO_SPAN
    assert (NO_SPAN.child("x"), NO_SPAN.headers(), NO_SPAN.trace_id) == (NO_SPAN, {}, "")


def test_a_trace_goes_on_from_the_clients(tracing: OtelTracing, memory: InMemorySpanExporter) -> None:
    root = tracing.request("POST", {**PARENT, "baggage": "prompt=secret"})
    assert root.trace_id == "ab" * 16
    with within(root), stage("inner") as inner:
        assert inner.headers()["traceparent"].startswith(f"00-{'ab' * 16}-")
        assert "baggage" not in inner.headers()
    root.note({"http.request.method": "POST", "http.route": "/v1/x"})
    root.end()
    root.end()
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert set(spans) == {"inner", "POST /v1/x"}
    assert spans["inner"].parent.span_id == spans["POST /v1/x"].context.span_id


@pytest.mark.parametrize("given", ["", "rubbish", "00-" + "0" * 32 + "-" + "cd" * 8 + "-01", "00-zz-yy-01", "é" * 60])
def test_a_bad_traceparent_begins_a_new_trace(tracing: OtelTracing, given: str) -> None:
    trace_id = tracing.request("POST", {"traceparent": given}).trace_id
    assert len(trace_id) == 32
    assert int(trace_id, 16) > 0


def test_an_error_is_told_by_its_kind_alone(tracing: OtelTracing, memory: InMemorySpanExporter) -> None:
    with within(tracing.request("POST", {})), pytest.raises(ValueError), stage("plan"):  # noqa: PT011
        raise ValueError("a secret prompt")
    with within(tracing.request("POST", {})), pytest.raises(asyncio.CancelledError), stage("load"):
        raise asyncio.CancelledError
    plan_span, load_span = memory.get_finished_spans()
    assert plan_span.attributes["error.type"] == "ValueError"
    assert load_span.attributes["error.type"] == "cancelled"
    assert "secret" not in plan_span.to_json()


async def test_tasks_begun_within_a_span_are_in_it(tracing: OtelTracing) -> None:
    async def where() -> str:
        return current().trace_id

    with within(tracing.request("POST", PARENT)):
        task = asyncio.create_task(where())
    assert current() is NO_SPAN
    assert await task == "ab" * 16


def test_a_run_that_never_got_in_failed_in_the_queue(tracing: OtelTracing, memory: InMemorySpanExporter) -> None:
    RunSpans(tracing.request("POST", {})).fail("deadline")
    (span,) = memory.get_finished_spans()
    assert (span.name, span.attributes["error.type"]) == ("queue", "deadline")


def test_times_that_do_not_fit_make_no_span_run_backwards(tracing: OtelTracing, memory: InMemorySpanExporter) -> None:
    made = result()
    run = RunSpans(tracing.request("POST", {}))
    run.finish(made, run_verdict(plan(), made))
    spans = memory.get_finished_spans()
    assert [span.name for span in spans] == ["queue", "denoise", "decode"]
    assert all(span.start_time <= span.end_time for span in spans)
    assert [one.end_time for one in spans[:-1]] == [one.start_time for one in spans[1:]]


def test_a_collector_that_is_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    tracing = exporting_to("http://127.0.0.1:9")
    tracing.request("POST", {}).end()
    started = time.monotonic()
    tracing.close()
    assert time.monotonic() - started < 8
