"""Sends one request of a soak and tells how it ended."""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.soak_mix import Shot

# A request that takes longer than this is taken for hung.
LIMIT_SECONDS = 600.0
CHUNK_BYTES = 100_000
ENVELOPE = {"message", "type", "param", "code"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture a client got: its file, the seed and what the cache did."""

    data: bytes
    seed: int
    verdict: str
    reason: str
    generation: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended.

    Attributes:
        shot: the request.
        end: "pictures", "page", "refused" (a documented error), "gone" (the client went away), or what must not
            be: "hung", "broken" (no whole answer), "wrong" (not what the documents promise).
        status: HTTP status, 0 if none arrived.
        code: the error's code, or what is wrong.
        drawn: its pictures.
        seconds: from sending to the end.
        retry_after: seconds to wait, when told so.
    """

    shot: Shot
    end: str
    status: int = 0
    code: str = ""
    drawn: tuple[Drawn, ...] = ()
    seconds: float = 0.0
    retry_after: float = 0.0

    def light(self) -> "Outcome":
        """Return the outcome without the pictures' bytes."""
        return replace(self, drawn=tuple(replace(picture, data=b"") for picture in self.drawn))


class WrongAnswer(Exception):
    """The answer is not what the documents promise; the message says in what."""


async def send(client: httpx.AsyncClient, shot: Shot) -> Outcome:
    """Send a request, hang up when it says so, and check the answer."""
    started = time.perf_counter()
    patience = LIMIT_SECONDS if shot.hang_up is None else shot.hang_up
    outcome = Outcome(shot, "broken")
    try:
        async with asyncio.timeout(patience):
            outcome = await _exchange(client, shot)
    except TimeoutError:
        outcome = Outcome(shot, "hung" if shot.hang_up is None else "gone")
    except httpx.TransportError as error:
        outcome = Outcome(shot, "broken", code=type(error).__name__)
    return replace(outcome, seconds=time.perf_counter() - started)


async def _exchange(client: httpx.AsyncClient, shot: Shot) -> Outcome:
    content = _chunks(shot.body) if shot.chunked else shot.body
    async with client.stream(shot.method, shot.path, content=content, headers=shot.headers) as answer:
        data = await answer.aread()
    status = answer.status_code
    try:
        if status not in shot.accepts and not (status == 429 and shot.pictures):
            raise WrongAnswer(f"status {status}, not {shot.accepts}: {data[:200]!r}")
        if status != 200:
            return _refused(shot, answer, data)
        if not shot.pictures:
            return Outcome(shot, "page", status)
        return _pictures(shot, data)
    except (WrongAnswer, ValueError, KeyError, OSError) as error:
        return Outcome(shot, "wrong", status, f"{type(error).__name__}: {error}"[:300])


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), CHUNK_BYTES):
        yield body[start : start + CHUNK_BYTES]


def _refused(shot: Shot, answer: httpx.Response, data: bytes) -> Outcome:
    code = error_code(json.loads(data))
    if answer.headers["x-should-retry"] != ("true" if answer.status_code in (429, 503) else "false"):
        raise WrongAnswer("x-should-retry")
    if answer.status_code == 503 and (code != "cache_unavailable" or not shot.path.startswith("/v1/cache")):
        raise WrongAnswer(f"503 {code}")
    wait = float(answer.headers.get("retry-after", 0))
    return Outcome(shot, "refused", answer.status_code, code, retry_after=wait)


def error_code(body: dict[str, Any]) -> str:
    """Return the code of an error.

    Raises:
        WrongAnswer: it is not written as documented.
    """
    error = body["error"]
    if set(body) != {"error"} or set(error) != ENVELOPE or not (error["message"] and error["type"]):
        raise WrongAnswer(f"envelope {sorted(error)}")
    return str(error["code"])


def _pictures(shot: Shot, data: bytes) -> Outcome:
    items = json.loads(data)["data"] if not shot.streamed else [_last_event(data)]
    if "error" in items[0]:
        code = error_code(items[0])
        if code != "not_cached" or 504 not in shot.accepts:
            raise WrongAnswer(f"the stream ended with {code}")
        return Outcome(shot, "refused", 200, code)
    drawn = tuple(_drawn(item) for item in items)
    if len(drawn) != shot.pictures:
        raise WrongAnswer(f"{len(drawn)} pictures, not {shot.pictures}")
    for picture in drawn:
        height, width = pixels(picture.data).shape[:2]
        if (width, height) != shot.size:
            raise WrongAnswer(f"{width}x{height} pixels, not {shot.size}")
    return Outcome(shot, "pictures", 200, drawn=drawn)


def _last_event(data: bytes) -> dict[str, Any]:
    name, text = data.decode().rstrip("\n").split("\n\n")[-1].split("\n")
    if name not in ("event: completed", "event: image_generation.completed", "event: error"):
        raise WrongAnswer(f"the stream ended after {name}")
    return dict(json.loads(text.removeprefix("data: ")))


def _drawn(item: dict[str, Any]) -> Drawn:
    cache = item["cache"]
    data = base64.b64decode(item["b64_json"])
    return Drawn(data, item["seed"], cache["verdict"], cache["reason"], item["id"])


def pixels(data: bytes) -> NDArray[np.int16]:
    """Decode a picture, whatever its format."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


def difference(one: bytes, other: bytes) -> int:
    """Return by how many levels of 255 two pictures differ where they differ most."""
    return int(np.abs(pixels(one) - pixels(other)).max())
