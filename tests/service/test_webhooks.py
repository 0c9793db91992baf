"""Webhooks: signed, tried again, and never sent where nobody allowed them to go."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from service_live import Client, live

from service.jobs.postman import Postman
from service.jobs.signing import secret_bytes, signature
from service.jobs.state import JobState, JobStatus
from service.jobs.targets import TargetError, Targets
from service.settings import SettingsError, load_settings

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """A real HTTP server that answers with the statuses it is given, the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self.calls: list[tuple[dict[str, str], bytes]] = []
        remaining = list(statuses)
        calls = self.calls

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                calls.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status = remaining.pop(0) if len(remaining) > 1 else remaining[0]
                self.send_response(status)
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?x=1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver(200)
    yield one
    one.close()


def _state(url: str) -> JobState:
    ended = {"status": JobStatus.SUCCEEDED, "finished": 2.0, "result": {"data": []}}
    return JobState(id="ab" * 16, created=1.0, progress=(), webhook=url, **ended)  # type: ignore[arg-type]


async def _report(url: str, hosts: tuple[str, ...], attempts: int = 3) -> str:
    outcomes = Counter("webhooks", "Outcomes.", ("outcome",), registry=CollectorRegistry())
    postman = Postman(Targets(hosts), KEY, outcomes, delays=(0.0,) * attempts)
    postman.report(_state(url))
    await asyncio.gather(*postman._tasks)
    (found,) = [s for m in outcomes.collect() for s in m.samples if s.name == "webhooks_total"]
    await postman.close()
    return str(found.labels["outcome"])


def _assert_signed(headers: dict[str, str], body: bytes) -> None:
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 300


def test_the_published_example_of_a_signature() -> None:
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_report_is_signed_and_says_what_became_of_the_job(receiver: Receiver) -> None:
    assert await _report(receiver.url, (f"127.0.0.1:{receiver.port}",)) == "delivered"
    ((headers, body),) = receiver.calls
    _assert_signed(headers, body)
    assert headers["webhook-id"] == "msg_" + "ab" * 16
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    said = json.loads(body)
    assert said["type"] == "job.succeeded"
    assert said["data"]["id"] == "ab" * 16


@pytest.mark.parametrize(
    ("statuses", "outcome", "calls"),
    [((503, 500, 204), "delivered", 3), ((500,), "failed", 3), ((410,), "failed", 1), ((302,), "failed", 3)],
)
async def test_it_is_tried_again_but_not_for_ever(statuses: tuple[int, ...], outcome: str, calls: int) -> None:
    one = Receiver(*statuses)
    try:
        assert await _report(one.url, (f"127.0.0.1:{one.port}",)) == outcome
        assert len(one.calls) == calls
        assert len({headers["webhook-id"] for headers, _ in one.calls}) == 1
    finally:
        one.close()


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n", b"HTTP/1.1 2", b"x" * 100_000, b"HTTP/1.1 abc\r\n"], ids=len
)
async def test_what_is_no_answer_is_no_delivery(answer: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(reply, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await _report(f"http://127.0.0.1:{port}/", (f"127.0.0.1:{port}",), attempts=1) == "failed"


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://127.0.0.1/",
        "http://127.0.0.1:22/",
        "http://[::1]/",
        "http://allowed.example:8080/",
        "http://allowed.example@evil.example/",
        "http://evil.example#allowed.example",
        "http://allowed.example.evil.example/",
        "http://user:pass@allowed.example/",
        "ftp://allowed.example/",
        "file:///etc/passwd",
        "https://allowed.example/\r\nHost: evil",
        "https://allowed.example/ x",
        "https://allowed.example\\@evil.example/",
        "https://ällowed.example/",
        "https://allowed.example:99999/",
        "https://[allowed.example/",
        "https://" + "a" * 5000,
        "//allowed.example/",
        "",
    ],
)
def test_only_listed_hosts_are_targets(url: str) -> None:
    with pytest.raises(TargetError):
        Targets(("allowed.example",)).parse(url)


def test_what_is_listed_is_a_target() -> None:
    targets = Targets(("allowed.example", "ports.example:8443", "10.0.0.0/8"))
    found = targets.parse("https://ALLOWED.example./a/b?c=d")
    assert (found.host, found.port, found.path, found.authority) == (
        "allowed.example",
        443,
        "/a/b?c=d",
        "allowed.example",
    )
    assert targets.parse("https://ports.example:8443").authority == "ports.example:8443"
    with pytest.raises(TargetError):
        targets.parse("https://ports.example/")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", False),
        ("10.1.2.3", True),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("93.184.215.14", True),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.1.2.3", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
    ],
)
async def test_a_name_must_lead_outside_or_to_a_listed_network(
    monkeypatch: pytest.MonkeyPatch, address: str, allowed: bool
) -> None:
    async def resolve(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    monkeypatch.setattr(asyncio.get_running_loop().__class__, "getaddrinfo", resolve)
    targets = Targets(("allowed.example", "10.0.0.0/8"))
    target = targets.parse("https://allowed.example/")
    if allowed:
        assert len(await targets.addresses(target)) == 1
    else:
        with pytest.raises(TargetError):
            await targets.addresses(target)


async def test_plain_http_is_for_listed_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 80))]

    monkeypatch.setattr(asyncio.get_running_loop().__class__, "getaddrinfo", resolve)
    targets = Targets(("allowed.example",))
    with pytest.raises(TargetError, match="https"):
        await targets.addresses(targets.parse("http://allowed.example/"))


async def test_a_listed_name_of_a_hidden_address_gets_nothing(receiver: Receiver) -> None:
    assert await _report(f"http://localhost:{receiver.port}/", (f"localhost:{receiver.port}",)) == "refused"
    assert receiver.calls == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"webhook_hosts": "a.example"}, "WEBHOOK_SECRET"),
        ({"webhook_hosts": "a.example/x", "webhook_secret": SECRET}, "WEBHOOK_HOSTS"),
        ({"webhook_hosts": "http://a.example", "webhook_secret": SECRET}, "WEBHOOK_HOSTS"),
        ({"webhook_hosts": "a.example:x", "webhook_secret": SECRET}, "WEBHOOK_HOSTS"),
        ({"webhook_secret": "hush-hush"}, "WEBHOOK_SECRET"),
        ({"webhook_secret": "whsec_aHVzaC1odXNo"}, "WEBHOOK_SECRET"),
    ],
)
def test_bad_settings_are_named_and_no_secret_shown(settings: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        load_settings(**settings)
    assert "hush" not in str(caught.value)
    assert "aHVz" not in str(caught.value)


def test_a_live_job_reports_its_end(resuming_model: Path, tmp_path: Path, receiver: Receiver) -> None:
    listed = {"webhook_hosts": f"127.0.0.1:{receiver.port}", "webhook_secret": SECRET}
    with live(tmp_path, model=str(resuming_model), threads="1", **listed) as server:
        client = Client(server)
        body = {"prompt": "a zebra-secret", "num_inference_steps": 2, "webhook": {"url": receiver.url}}
        job = client.http.post("/v1/jobs", json=body).json()
        server.wait(lambda: len(receiver.calls) == 1, "reported")
        headers, said = receiver.calls[0]
        _assert_signed(headers, said)
        data = json.loads(said)["data"]
        assert (data["id"], data["status"]) == (job["id"], "succeeded")
        assert client.http.get(data["result"]["data"][0]["url"]).status_code == 200
        assert b"zebra" not in said
        elsewhere = {**body, "webhook": {"url": "http://169.254.169.254/latest/meta-data"}}
        refused = client.http.post("/v1/jobs", json=elsewhere)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "webhook.url")
        server.wait(lambda: client.metric("headstart_webhooks_total", outcome="delivered") == 1, "counted")
        client.http.close()
    assert "zebra" not in server.log.read_text()
