"""Is an answer what the API promises? Every answer of a replay is checked, not only its status."""

import base64
import binascii
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image, UnidentifiedImageError

from loadtest.answer_headers import own_status

STATUS_OF = {"EXACT": "hit", "APPROX": "hit", "MISS": "miss", "BYPASS": "bypass", "REFRESH": "request"}
"""Verdict in the body -> what `Cache-Status` must say: a hit, or why the request was forwarded."""


class BadAnswer(Exception):
    """An answer that a client could not use; the message says why in a few words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One checked answer: the picture's bytes, its seed, and the cache object."""

    picture: bytes
    seed: int
    cache: dict[str, Any]


def read_answer(status: int, body: bytes, cache_status: str | None = None) -> Answer:
    """Check an answer of `POST /v1/images/generations` and return what the replay needs.

    Args:
        status: HTTP status; 0 without an answer.
        body: as received.
        cache_status: the `Cache-Status` header, if there is one; it must agree with the body.

    Raises:
        BadAnswer: it is an error, has no picture that decodes, no sound cache object, or contradicts itself.
    """
    content = _content(status, body)
    try:
        item = content["data"][0]
        answer = Answer(base64.b64decode(item["b64_json"], validate=True), int(item["seed"]), dict(item["cache"]))
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
        raise BadAnswer(f"answer lacks a field: {error!r}") from None
    _check_picture(answer.picture)
    _check_cache(answer.cache)
    _check_header(answer.cache["verdict"], cache_status)
    return answer


def _content(status: int, body: bytes) -> dict[str, Any]:
    if status == 0:
        raise BadAnswer("no answer")
    try:
        content = json.loads(body)
    except ValueError:
        raise BadAnswer(f"status {status}, not JSON") from None
    if status != 200:
        code = content.get("error", {}).get("code") if isinstance(content, dict) else None
        raise BadAnswer(f"status {status}" + (f", {code}" if code else ""))
    if not isinstance(content, dict):
        raise BadAnswer("not a JSON object")
    return content


def _check_picture(data: bytes) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            kind = image.format
    except (UnidentifiedImageError, OSError, SyntaxError):
        raise BadAnswer("picture does not decode") from None
    if kind != "PNG":
        raise BadAnswer(f"picture is {kind}, not PNG")


def _check_cache(cache: dict[str, Any]) -> None:
    if cache.get("verdict") not in STATUS_OF:
        raise BadAnswer(f"unknown verdict {cache.get('verdict')!r}")
    steps, skipped = cache.get("steps"), cache.get("skipped_steps")
    if not isinstance(steps, int) or not isinstance(skipped, int) or not 0 <= skipped <= steps or steps < 1:
        raise BadAnswer(f"impossible step counts: {skipped!r} of {steps!r}")


def _check_header(verdict: str, header: str | None) -> None:
    said = own_status(header)
    if said is not None and ("hit" if said.hit else said.forwarded) != STATUS_OF[verdict]:
        raise BadAnswer(f"Cache-Status says {'hit' if said.hit else said.forwarded}, the body {verdict}")
