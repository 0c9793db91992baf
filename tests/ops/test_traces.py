"""Traces of the real service, as a collector receives them, and the log lines that belong to them."""

import itertools
import json
import secrets
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from otlp_collector import Collector, Received
from service_live import Client, LiveServer, live

CANARY = "zanzibarquokka"
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Hook:
    """Where jobs are reported to; keeps the headers of the reports."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        kept = self.headers

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                kept.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    one = Hook()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, resuming_model: Path, collector: Collector, hook: Hook
) -> Iterator[Client]:
    """A service that traces, logs everything, and has a webhook to report to."""
    settings = {"traces_endpoint": collector.url, "log_level": "debug", "threads": "1"}
    hooks = {"webhook_hosts": f"127.0.0.1:{hook.port}", "webhook_secret": SECRET}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        server = LiveServer(tmp_path_factory.mktemp("traced"), model=str(resuming_model), **settings, **hooks).start()
    client = Client(server)
    yield client
    client.http.close()
    server.stop()


def new_parent(sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """Return a trace id, a parent's id, and the headers that tell of them."""
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, parent_id, {"traceparent": f"00-{trace_id}-{parent_id}-0{int(sampled)}"}


def spans_of(client: Client, collector: Collector, trace_id: str, last: str = "store") -> dict[str, Received]:
    """Return a trace's spans by name, once the one that ends last has come."""

    def complete() -> bool:
        names = [span.name for span in collector.spans(trace_id)]
        return last in names and any(name.startswith(("POST", "GET")) for name in names)

    client.server.wait(complete, f"traced to {last}", 60)
    return {span.name: span for span in collector.spans(trace_id)}


def lines_of(server: LiveServer, trace_id: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("trace_id") == trace_id]


def test_a_full_run_is_traced_from_queue_to_store(traced: Client, collector: Collector) -> None:
    trace_id, parent_id, headers = new_parent()
    answer = traced.draw("a traced cube", seed=5, num_inference_steps=8, headers=headers)
    spans = spans_of(traced, collector, trace_id)
    root, picture = spans["POST /v1/images/generations"], spans["picture"]
    assert root.parent_id == parent_id
    assert root.attributes["http.response.status_code"] == 200
    assert picture.parent_id == root.span_id
    inner = ("plan", "admission", "queue", "denoise", "decode", "encode", "store")
    assert {spans[name].parent_id for name in inner} == {picture.span_id}
    assert spans["lookup"].parent_id == spans["plan"].span_id
    told = {"headstart.verdict": answer["cache"]["verdict"], "headstart.steps": 8, "headstart.skipped": 0}
    assert told.items() <= spans["denoise"].attributes.items()
    assert told.items() <= picture.attributes.items()
    assert spans["denoise"].attributes["headstart.device_seconds"] > 0


def test_stages_follow_one_another_within_their_picture(traced: Client, collector: Collector) -> None:
    trace_id, _, headers = new_parent()
    traced.draw("a traced sphere", headers=headers)
    spans = spans_of(traced, collector, trace_id)
    way = [spans[name] for name in ("embed", "lookup", "admission", "queue", "denoise", "decode", "encode")]
    for before, after in itertools.pairwise(way):
        assert before.start <= before.end <= after.start + 1_000_000, (before.name, after.name)
    picture = spans["picture"]
    assert all(picture.start <= span.start and span.end <= picture.end for span in way)
    denoise = spans["denoise"]
    assert denoise.end - denoise.start > 0.5e9 * float(str(denoise.attributes["headstart.device_seconds"]))


def test_a_head_start_tells_k_of_n(traced: Client, collector: Collector) -> None:
    traced.draw("a traced violet cone", seed=1)
    traced.settle()
    trace_id, _, headers = new_parent()
    cache = traced.cache("a traced purple cone", headers=headers)
    assert cache["verdict"] == "APPROX"
    denoise = spans_of(traced, collector, trace_id)["denoise"]
    assert denoise.attributes["headstart.verdict"] == "APPROX"
    assert denoise.attributes["headstart.skipped"] == cache["skipped_steps"] > 0
    assert "load" in {span.name for span in collector.spans(trace_id)}


def test_an_exact_repeat_has_no_run(traced: Client, collector: Collector) -> None:
    traced.draw("a traced torus", seed=2)
    traced.settle()
    trace_id, _, headers = new_parent()
    assert traced.cache("a traced torus", seed=2, headers=headers)["verdict"] == "EXACT"
    spans = spans_of(traced, collector, trace_id, last="picture")
    assert set(spans) == {"POST /v1/images/generations", "picture", "plan", "lookup", "admission", "encode"}


def test_pictures_of_one_request_share_its_trace(traced: Client, collector: Collector) -> None:
    trace_id, _, headers = new_parent()
    traced.post({"prompt": "two traced discs", "n": 2}, headers=headers)
    traced.server.wait(lambda: [s.name for s in collector.spans(trace_id)].count("store") == 2, "both", 30)
    assert [span.name for span in collector.spans(trace_id)].count("denoise") == 2


def test_without_a_parent_a_trace_begins_here(traced: Client, collector: Collector) -> None:
    answer = traced.post({"prompt": "a traced orphan"}, headers={"X-Request-Id": "orphan-1"})
    assert answer.status_code == 200
    lines = [line for line in map(json.loads, traced.server.log.read_text().splitlines()) if "trace_id" in line]
    trace_id = next(line["trace_id"] for line in lines if line.get("request_id") == "orphan-1")
    assert spans_of(traced, collector, trace_id)["POST /v1/images/generations"].parent_id == ""


def test_who_is_not_sampled_is_not_traced_but_named_in_the_log(traced: Client, collector: Collector) -> None:
    trace_id, _, headers = new_parent(sampled=False)
    traced.draw("an unsampled cube", headers=headers)
    after, _, headers = new_parent()
    traced.draw("a sampled cube", headers=headers)
    spans_of(traced, collector, after)
    assert collector.spans(trace_id) == []
    assert "request" in {line["message"] for line in lines_of(traced.server, trace_id)}


def test_the_log_tells_trace_request_verdict_and_durations(traced: Client) -> None:
    trace_id, _, headers = new_parent()
    traced.draw("a logged cube", headers={**headers, "X-Request-Id": "logged-1"})
    # The line of a request is written once its answer has gone out.
    traced.server.wait(lambda: "request" in {line["message"] for line in lines_of(traced.server, trace_id)}, "logged")
    lines = {line["message"]: line for line in lines_of(traced.server, trace_id)}
    assert {line["request_id"] for line in lines.values()} == {"logged-1"}
    picture, request = lines["picture"], lines["request"]
    assert picture["verdict"] in ("MISS", "APPROX")
    assert picture["generation"] != "logged-1"
    durations = ("queue_seconds", "denoise_seconds", "decode_seconds", "total_seconds")
    assert all(0 <= picture[name] <= request["seconds"] for name in durations)
    assert picture["total_seconds"] > 0


def test_a_refusal_and_a_failure_say_where(traced: Client, collector: Collector) -> None:
    trace_id, _, headers = new_parent()
    uncached = {"prompt": "nothing like it", "seed": 77}
    assert traced.post(uncached, headers={**headers, "Cache-Control": "only-if-cached"}).status_code == 504
    picture = spans_of(traced, collector, trace_id, last="picture")["picture"]
    assert (picture.failed, picture.attributes["error.type"]) == (True, "NotCachedError")

    trace_id, _, headers = new_parent()
    slow = {"prompt": "too late", "num_inference_steps": 200, "deadline_seconds": 0.2, "cache": {"mode": "off"}}
    assert traced.post(slow, headers=headers).status_code == 504
    spans = spans_of(traced, collector, trace_id, last="picture")
    assert spans["picture"].attributes["error.type"] == "deadline"
    assert spans["POST /v1/images/generations"].failed


def test_a_client_that_leaves_is_cancelled_in_the_trace(traced: Client, collector: Collector) -> None:
    trace_id, _, headers = new_parent()
    body = {"prompt": "never seen", "num_inference_steps": 200, "cache": {"mode": "off"}}
    with traced.http.stream("POST", "/v1/generations/events", json=body, headers=headers) as answer:
        next(answer.iter_lines())
    picture = spans_of(traced, collector, trace_id, last="picture")["picture"]
    assert picture.attributes["error.type"] == "cancelled"


def test_a_job_carries_its_trace_on_to_the_webhook(traced: Client, collector: Collector, hook: Hook) -> None:
    trace_id, _, headers = new_parent()
    body = {"prompt": "a traced job", "webhook": {"url": f"http://127.0.0.1:{hook.port}/{CANARY}"}}
    told = {**headers, "tracestate": "vendor=1", "baggage": f"secret={CANARY}"}
    assert traced.http.post("/v1/jobs", json=body, headers=told).status_code == 202
    spans = spans_of(traced, collector, trace_id, last="webhook")
    assert spans["picture"].parent_id == spans["POST /v1/jobs"].span_id
    report = hook.headers[-1]
    assert report["traceparent"] == f"00-{trace_id}-{spans['webhook'].span_id}-01"
    assert report["tracestate"] == "vendor=1"
    assert "baggage" not in report


def test_probes_are_not_traced_and_the_service_is_named(traced: Client, collector: Collector) -> None:
    trace_id, _, headers = new_parent()
    for path in ("/livez", "/readyz", "/startupz", "/metrics"):
        traced.http.get(path, headers=headers)
    after, _, headers = new_parent()
    traced.http.get("/v1/stats", headers=headers)
    spans_of(traced, collector, after, last="GET /v1/stats")
    assert collector.spans(trace_id) == []
    assert collector.resource["service.name"] == "headstart"
    assert collector.resource["deployment.environment.name"] == "test"


def test_no_canary_in_logs_traces_or_metrics(traced: Client, collector: Collector) -> None:
    """Prompts, users, keys, paths, headers: whatever a client sends stays out of what operators collect."""
    trace_id, _, headers = new_parent()
    said = {"negative_prompt": f"no {CANARY}", "user": CANARY}
    traced.draw(f"a {CANARY} in the sun", headers={**headers, "Idempotency-Key": CANARY}, seed=3, **said)
    traced.settle()
    traced.draw(f"a {CANARY} in the sun", seed=3, **said)
    traced.draw(f"the {CANARY} in the sun", **said)
    traced.events({"prompt": f"a streamed {CANARY}"})
    for body in ({"prompt": CANARY, CANARY: 1}, {"prompt": [CANARY]}, {"prompt": "a", "scheduler": CANARY}):
        assert traced.post(body).status_code == 400
    traced.http.post("/v1/images/generations", content=f'{{"prompt": "{CANARY}')
    traced.post({"prompt": CANARY, "lora": [{"name": CANARY}]})
    sent = {"User-Agent": CANARY, "Authorization": f"Bearer {CANARY}", "traceparent": CANARY}
    sent["X-Request-Id"] = f"not an id: {CANARY}"
    for path in (f"/{CANARY}", f"/v1/jobs/{CANARY}", f"/v1/generations/{CANARY}?{CANARY}={CANARY}"):
        traced.http.get(path, headers=sent)
    traced.http.post("/v1/cache/explain", json={"prompt": f"explain {CANARY}"}, headers=headers)
    traced.settle()
    spans_of(traced, collector, trace_id)
    assert CANARY not in traced.server.log.read_text().lower()
    assert CANARY not in traced.http.get("/metrics").text.lower()
    assert not any(CANARY.encode() in body.lower() for body in collector.bodies)


def test_a_collector_that_is_away_costs_no_request_and_no_orderly_stop(tmp_path: Path, resuming_model: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with live(tmp_path, model=str(resuming_model), traces_endpoint=nobody, threads="1") as server:
            assert httpx.post(f"{server.url}/v1/images/generations", json={"prompt": "a lonely cube"}, timeout=60)
    assert server.log.read_text().count('"level": "error"') <= 2
