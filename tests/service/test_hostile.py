"""Clients that mean harm: slow, huge, deep, malformed. Others are served meanwhile, and nothing of it is a fault."""

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from service_live import Client

from service.api.connections import MAX_HEAD_BYTES

ROUTES = ("/v1/images/generations", "/v1/jobs", "/v1/generations/events", "/v1/cache/explain")
JSON = {"Content-Type": "application/json"}


def _connect(client: Client) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", client.server.port), timeout=60)
    connection.settimeout(60)
    return connection


def _raw(client: Client, data: bytes) -> bytes:
    """Send bytes and return all that comes back before the connection closes."""
    with _connect(client) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return _rest(connection)


def _rest(connection: socket.socket) -> bytes:
    """Return what comes before the connection closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            answer += part
    return answer


def _assert_alive(client: Client) -> None:
    assert client.http.get("/livez").status_code == 200
    assert client.metric("headstart_pictures_in_work") == 0


def _deep(kind: str, depth: int) -> bytes:
    if kind == "list":
        return b"[" * depth + b"]" * depth
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["list", "object"])
@pytest.mark.parametrize("depth", [500, 100_000])
def test_deep_nesting(client: Client, route: str, kind: str, depth: int) -> None:
    nested = _deep(kind, depth)
    for body in (nested, b'{"prompt": "a", "cache": ' + nested + b"}", b'{"prompt": ' + nested + b"}"):
        answer = client.http.post(route, content=body, headers=JSON)
        assert answer.status_code in (400, 413), answer.text[:300]
        assert len(answer.content) < 2000
    _assert_alive(client)


@pytest.mark.parametrize("route", ROUTES)
def test_wide_bodies(client: Client, route: str) -> None:
    fields = {f"field{number}": number for number in range(20_000)}
    answer = client.http.post(route, json={"prompt": "a", **fields})
    assert answer.status_code == 400
    assert len(answer.content) < 2000
    answer = client.http.post(route, json={"prompt": "a", "lora": [{"name": "x"}] * 20_000})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "-Infinity", "1e999", "-0.0", "9" * 4000, "1e-400", "0x10", "1_0"]
)
@pytest.mark.parametrize("field", ["deadline_seconds", "guidance_scale", "num_inference_steps", "partial_images"])
def test_numbers_at_the_edge_are_an_answer_or_a_clear_no(client: Client, literal: str, field: str) -> None:
    for route in ROUTES:
        body = f'{{"prompt": "edge", "n": 1, "num_inference_steps": 1, "{field}": {literal}}}'.encode()
        answer = client.http.post(route, content=body, headers=JSON)
        assert answer.status_code in (200, 202, 400, 504), answer.text
        if answer.status_code == 400:
            assert answer.json()["error"]["param"] in (field, None)


def test_a_head_that_never_ends_is_cut_off(client: Client) -> None:
    answer = _raw(client, b"GET /livez HTTP/1.1\r\n" + b"X-Filler: " + b"x" * (4 * MAX_HEAD_BYTES))
    assert answer.startswith(b"HTTP/1.1 431 ")
    many = b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
    assert _raw(client, b"GET /livez HTTP/1.1\r\n" + many).startswith(b"HTTP/1.1 431 ")
    _assert_alive(client)


def test_a_large_head_within_the_bound_is_served(client: Client) -> None:
    answer = client.http.get("/livez", headers={"X-Filler": "x" * (MAX_HEAD_BYTES // 2)})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"\x00" * 100,
        b"GET /livez HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda value: repr(value[:60]),
)
def test_what_is_no_proper_http(client: Client, request_bytes: bytes) -> None:
    answer = _raw(client, request_bytes)
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    assert b"Traceback" not in answer
    if answer.startswith(b"HTTP/1.1 4"):
        assert b'"error"' in answer
    _assert_alive(client)


def test_slow_clients_keep_nobody_else_waiting(client: Client) -> None:
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    slow = []
    for number in range(200):
        connection = _connect(client)
        connection.sendall(head if number % 2 else head + b"Content-Length: 1000\r\n\r\n{")
        slow.append(connection)
    assert client.draw("a cube beside slow clients", num_inference_steps=2)["b64_json"]
    for connection in slow:
        connection.close()
    _assert_alive(client)


def test_those_who_are_too_slow_are_told_so(client: Client) -> None:
    def never_ends(part: bytes) -> bytes:
        with _connect(client) as connection:
            connection.sendall(part)
            return _rest(connection)

    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    with ThreadPoolExecutor() as pool:
        for answer in pool.map(never_ends, (head, head + b'\r\n{"prompt": "a')):
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert b'"error"' in answer
    _assert_alive(client)


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache-Control": "max-age=abc"},
        {"Cache-Control": "max-age=-1"},
        {"Cache-Control": "min-fresh=1.5"},
        {"Cache-Control": "max-age=" + "9" * 300},
        {"Cache-Control": "x" * 501},
        {"Idempotency-Key": "x" * 301},
        {"Prefer": "x" * 501},
    ],
    ids=lambda headers: str(headers)[:50],
)
def test_headers_that_are_refused_are_named(client: Client, headers: dict[str, str]) -> None:
    answer = client.http.post("/v1/images/generations", json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == next(iter(headers)).lower()


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache-Control": ",,=,=;max-age,\x80".encode("latin-1").decode("latin-1")},
        {"Cache-Control": "max-age=99999999999999999999"},
        {"Cache-Control": 'max-age="60", no-transform, unknown=1'},
        {"Accept": ";;;q=,application/problem+json;q=2"},
        {"X-Request-Id": "a\u00ffb"},
        {"Prefer": ";;,=,respond-sync"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"If-None-Match": '"'},
        {"Last-Event-ID": "9" * 90},
    ],
    ids=lambda headers: ascii(headers)[:50],
)
def test_headers_that_are_odd_do_no_harm(client: Client, headers: dict[str, str]) -> None:
    sent = {**JSON, **{name: value.encode("latin-1") for name, value in headers.items()}}
    body = json.dumps({"prompt": "odd headers", "num_inference_steps": 1}).encode()
    answer = client.http.post("/v1/images/generations", content=body, headers=sent)
    assert answer.status_code in (200, 400), answer.text


STRANGE = (
    "..",
    "%2e%2e",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%00",
    "%0d%0aSet-Cookie:x",
    "'; DROP",
    "*",
    "a" * 5000,
    "é",
)


@pytest.mark.parametrize(
    "path", ["/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/images/{}", "/v1/generations/{}", "/v1/cache/entries/{}/image"]
)
def test_strange_ids_are_only_not_found(client: Client, path: str) -> None:
    for name in STRANGE:
        answer = client.http.get(path.format(name))
        assert answer.status_code in (200, 400, 404), answer.text  # 200: the page, where dots lead to it
        assert b"root:" not in answer.content
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=1e3", "limit=", "cursor=%00", "cursor=" + "A" * 101, "cursor=AAAA", "cursor=%ff",
     "before=NaN", "before=inf", "before=-1", "before=" + "9" * 60, "after=2&before=1", "prompt=", "user=", "x=1",
     "limit=1&limit=2", "cursor=ajE"],
)  # fmt: skip
def test_queries_that_are_refused(client: Client, query: str) -> None:
    answer = client.http.get(f"/v1/cache/entries?{query}")
    if query == "before=" + "9" * 60:  # far in the future
        assert answer.status_code == 200
        return
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"]


def test_a_crowd_that_hangs_up_leaves_nothing_behind(client: Client) -> None:
    def hang_up(number: int) -> None:
        with contextlib.suppress(httpx.TimeoutException, httpx.TransportError):
            body = {"prompt": f"gone {number}", "num_inference_steps": 200, "cache": {"mode": "off"}}
            httpx.post(f"{client.server.url}/v1/images/generations", json=body, timeout=0.2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hang_up, range(24)))
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") == 0, "idle")
    _assert_alive(client)
