"""How long a body may take: a fixed time for text, as long as it keeps coming for pictures, and never for ever."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.api import middleware
from service.api.middleware import Envelope
from service.api.schema_edits import EditBody
from service.metrics import Metrics
from service.tracing import NoTracing

UPLOAD, TEXT = "/v1/images/edits", "/v1/images/generations"
PART = 400


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(middleware, "DISCARD_SECONDS", 0.5)
    monkeypatch.setattr(middleware, "LEAST_BYTES_PER_SECOND", 1000)


async def _reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _answer(path: str, parts: Iterator[bytes], pause: float, most: int = 2_000_000) -> tuple[int, float]:
    """Send a body part by part; return the status and the seconds until it came."""
    envelope = Envelope(_reads_all, Metrics(), NoTracing(), upload_bytes=most)
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    statuses: list[int] = []

    async def receive() -> Message:
        await asyncio.sleep(pause)
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    started = time.monotonic()
    await envelope(scope, receive, send)
    return statuses[0], time.monotonic() - started


def _parts(size: int, count: int) -> Iterator[bytes]:
    return (b"x" * size for _ in range(count))


async def test_a_picture_that_keeps_coming_takes_its_time() -> None:
    assert (await _answer(UPLOAD, _parts(PART, 12), 0.1))[0] == 200


async def test_text_has_a_fixed_time() -> None:
    assert (await _answer(TEXT, _parts(PART, 12), 0.1))[0] == 408


@pytest.mark.parametrize(("size", "pause"), [(2, 0.1), (100_000, 0.8)], ids=["drop by drop", "a long silence"])
async def test_a_picture_that_hardly_comes_is_given_up(size: int, pause: float) -> None:
    status, seconds = await _answer(UPLOAD, _parts(size, 1000), pause)
    assert status == 408
    assert seconds < 5


async def test_a_body_over_the_bound_holds_its_connection_for_seconds() -> None:
    def drops() -> Iterator[bytes]:
        yield b"x" * 1_500_000
        yield from _parts(1, 10_000)

    status, seconds = await _answer(UPLOAD, drops(), 0.05, most=1_400_000)
    assert status == 413
    assert seconds < 5


def test_the_texts_of_a_form_may_say_that_nothing_is_streamed() -> None:
    body = EditBody.model_validate_strings({"prompt": "a", "stream": "false", "partial_images": "0"})
    assert (body.stream, body.partial_images) == (False, 0)
    for name, value in (("stream", "true"), ("partial_images", "1")):
        with pytest.raises(ValueError, match=name):
            EditBody.model_validate_strings({"prompt": "a", name: value})
