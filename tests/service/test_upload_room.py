"""Uploads are bounded before they are read: by room, turns, the queue, their deadline, and by who still waits."""

import asyncio
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from service_live import Client, live

from service import uploads
from service.access import create_key
from service.access.identity import Rights
from service.api.app import create_app
from service.api.middleware import UPLOADS, upload_route
from service.engine.reference import Reference
from service.refusals import RefusedError
from service.settings import load_settings
from service.upload_room import LEAST_BYTES, UploadRoom
from service.uploads import Darkroom, TooLateError

MOST = 8 * LEAST_BYTES
EDITS, REPLAY = "/v1/images/edits", f"/v1/generations/{'0' * 32}/replay"
KEY = "Idempotency-Key"


def test_a_tenant_alone_gets_half_and_the_next_finds_room() -> None:
    room = UploadRoom(MOST)
    stays = [room.take("crowd", LEAST_BYTES) for _ in range(4)]
    with pytest.raises(RefusedError) as caught:
        room.take("crowd", 1)
    assert (caught.value.reason, caught.value.retry_after) == ("uploads_full", 2)
    with room.take("other", 2 * LEAST_BYTES):
        assert room.held == 6 * LEAST_BYTES
    for stay in stays:
        stay.release()
        stay.release()
    assert room.held == 0


def test_an_upload_larger_than_the_room_enters_alone() -> None:
    room = UploadRoom(LEAST_BYTES)
    with room.take("one", MOST), pytest.raises(RefusedError):
        room.take("other", 1)
    room.take("other", 1).release()


class Slow:
    """Stands for decoding: waits to be let on, and tells whom it works for."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.go, self.at_work = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, image: bytes, *_: object) -> Reference:
        self.begun.append(image)
        self.at_work.release()
        self.go.acquire(timeout=60)
        return Reference(np.zeros((2, 2, 3), np.uint8), 0.5, image.decode())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    stand_in = Slow()
    monkeypatch.setattr(uploads, "_reference", stand_in)
    yield stand_in
    stand_in.go.release(100)


def _asked(room: Darkroom, tenant: str, seconds: float = 60.0) -> asyncio.Task[Reference]:
    wish = room.reference(
        tenant.encode(), None, 0.5, lambda *size: size, tenant=tenant, deadline=time.monotonic() + seconds
    )
    return asyncio.create_task(wish)


async def _begun(slow: Slow, count: int) -> None:
    def wait() -> None:
        for _ in range(count):
            assert slow.at_work.acquire(timeout=60)

    await asyncio.to_thread(wait)


async def test_tenants_take_turns_at_decoding(slow: Slow) -> None:
    room = Darkroom()
    tasks = [_asked(room, "crowd") for _ in range(6)]
    await _begun(slow, 2)
    tasks.append(_asked(room, "other"))
    await asyncio.sleep(0)
    slow.go.release(7)
    await asyncio.gather(*tasks)
    assert b"other" in slow.begun[2:4]


async def test_who_is_gone_is_not_decoded_and_a_thread_keeps_its_turn(slow: Slow) -> None:
    room = Darkroom()
    working = [_asked(room, "a"), _asked(room, "b")]
    await _begun(slow, 2)
    waiting = _asked(room, "gone")
    for task in (*working, waiting):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*working, waiting, return_exceptions=True)
    last = _asked(room, "last")
    await asyncio.sleep(0.05)
    assert len(slow.begun) == 2  # two threads are still at it
    slow.go.release(3)
    assert (await last).digest == "last"
    assert b"gone" not in slow.begun


async def test_a_picture_that_waits_too_long_is_too_late(slow: Slow) -> None:
    room = Darkroom()
    working = [_asked(room, "a"), _asked(room, "b")]
    await _begun(slow, 2)
    with pytest.raises(TooLateError):
        await _asked(room, "c", seconds=0.05)
    slow.go.release(2)
    await asyncio.gather(*working)


@pytest.fixture(scope="module")
def cramped(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client]]:
    """Two tenants of a service with room for four uploads and one picture."""
    folder = tmp_path_factory.mktemp("cramped")
    settings = {"upload_bytes": "1000000", "upload_room_bytes": str(4 * LEAST_BYTES), "queue_limit": "1"}
    path, rights = folder / "data" / "keys.json", Rights(operator=True)
    keys = [create_key(path, name, rights=rights)[0] for name in ("crowd", "other")]
    with live(folder, model=str(resuming_model), threads="1", **settings) as running:
        crowd, other = (Client(running, key) for key in keys)
        with crowd.http, other.http:
            yield crowd, other


@contextmanager
def _unfinished(client: Client, path: str = EDITS, key: str = "") -> Iterator[socket.socket]:
    """Begin an upload and send no more of it than its head."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {client.http.headers['Authorization']}\r\n"
        f"{KEY}: {key}\r\n"
        "Content-Length: 900000\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", client.server.port)) as connection:
        connection.sendall(head.encode())
        yield connection


def _sent(client: Client, pad: int = 0, key: str = "", **fields: str) -> httpx.Response:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    texts = {name: (None, text) for name, text in {"prompt": "a cube", "num_inference_steps": "2", **fields}.items()}
    files = {"image": ("a.png", buffer.getvalue() + bytes(pad)), **texts}
    return client.http.post(EDITS, files=files, headers={KEY: key} if key else {})


def _edit(client: Client, pad: int = 0, key: str = "", **fields: str) -> tuple[int, str]:
    answer = _sent(client, pad, key, **fields)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def _fill(stack: ExitStack, client: Client, key: str = "") -> None:
    """Begin uploads until there is no room for another; the last of them may have been refused."""

    def full() -> bool:
        stack.enter_context(_unfinished(client, key=key))
        return _edit(client, key=key) == (429, "uploads_full")

    client.server.wait(full, "full")


def _refusals(client: Client, route: str) -> float:
    return client.metric("headstart_requests_total", route=route, status="429", cache="none")


def test_routes_that_take_pictures_are_known_by_their_paths() -> None:
    assert UPLOADS.keys() <= create_app(load_settings()).openapi()["paths"].keys()
    assert upload_route(EDITS) == EDITS
    assert upload_route(REPLAY) == "/v1/generations/{generation_id}/replay"
    assert [upload_route(path) for path in (f"{EDITS}/", "/v1/generations/7/replay", "/v1/jobs")] == [None] * 3


def test_a_tenant_that_fills_its_share_is_told_and_keeps_nobody_out(cramped: tuple[Client, Client]) -> None:
    crowd, other = cramped
    server = crowd.server
    with ExitStack() as stack:
        for path in (EDITS, REPLAY):
            stack.enter_context(_unfinished(crowd, path))
        server.wait(lambda: _edit(crowd, pad=900_000) == (429, "uploads_full"), "full")
        assert _edit(other) == (200, "")
        assert crowd.http.post(REPLAY, json={"image": "A" * 900_000}).status_code == 429
        assert crowd.metric("headstart_rejected_total", reason="uploads_full") >= 1
    for route in (EDITS, "/v1/generations/{generation_id}/replay"):
        assert _refusals(crowd, route) >= 1
    assert _refusals(crowd, "unmatched") == 0
    server.wait(lambda: _edit(crowd) == (200, ""), "free again")


def test_a_full_queue_refuses_an_upload_before_it_is_read(cramped: tuple[Client, Client]) -> None:
    client, _ = cramped
    body = {"prompt": "a long cube", "n": 10, "num_inference_steps": 100, "cache": {"mode": "off"}}
    holder = threading.Thread(target=client.post, args=(body,))
    holder.start()
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") >= 1, "busy")
    with _unfinished(client) as connection:
        connection.settimeout(60)
        answer = connection.recv(4096)
    holder.join()
    assert answer.startswith(b"HTTP/1.1 429")


@contextmanager
def _busy(client: Client) -> Iterator[None]:
    """Draw more pictures than there are places for, until this is left."""
    body = {"prompt": "long cubes", "n": 10, "num_inference_steps": 200, "cache": {"mode": "off"}}
    job = client.http.post("/v1/jobs", json=body)
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") >= 1, "busy")
    yield
    assert client.http.delete(job.headers["location"]).status_code == 200
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") == 0, "idle")


def test_a_stored_answer_is_found_though_the_queue_is_full(cramped: tuple[Client, Client]) -> None:
    crowd, other = cramped
    first = _sent(crowd, key="kept")
    assert (first.status_code, first.headers["idempotency-status"]) == (200, "stored")
    with _busy(crowd):
        assert _edit(crowd) == _edit(crowd, key="new") == _edit(other, key="kept") == (429, "queue_full")
        again = _sent(crowd, key="kept")
        assert (again.status_code, again.headers["idempotency-status"]) == (200, "replayed")
        assert again.content == first.content
        assert _edit(crowd, key="kept", prompt="a ball") == (422, "idempotency_key_reuse")
        with ExitStack() as stack:
            _fill(stack, crowd, key="kept")  # the reserve, which holds one body
        crowd.server.wait(lambda: _edit(crowd, key="kept") == (200, ""), "free again")
        assert _edit(crowd) == (429, "queue_full")  # so it was all the time


def test_a_stored_answer_is_found_though_there_is_no_room(cramped: tuple[Client, Client]) -> None:
    crowd, _ = cramped
    first = _sent(crowd, key="roomy")
    with ExitStack() as stack:
        _fill(stack, crowd)
        assert _sent(crowd, key="roomy").content == first.content
        assert _edit(crowd, key="other") == (429, "uploads_full")


def test_the_deadline_counts_from_arrival(cramped: tuple[Client, Client]) -> None:
    client, _ = cramped
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, "PNG")
    texts = {"prompt": "a late cube", "num_inference_steps": "2", "deadline_seconds": "3"}
    named = '--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    head = '--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def slowly() -> Iterator[bytes]:
        yield "".join(named % field for field in texts.items()).encode()
        time.sleep(4)
        yield head.encode() + buffer.getvalue() + b"\r\n--b--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.http.post("/v1/images/edits", content=slowly(), headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
