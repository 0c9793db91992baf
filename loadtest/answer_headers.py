"""What an answer's headers say: `Cache-Status` (RFC 9211) and `Retry-After` (RFC 9110, section 10.2.3)."""

import math
import re
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

HEADSTART = "headstart"
LONGEST_WAIT = 3600.0


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """What one cache on the way did.

    Attributes:
        cache: its name.
        hit: whether it answered by itself.
        forwarded: why it did not (`miss`, `bypass`, `request`, …), or None.
        stored: whether it kept the answer.
        parameters: all of them; those without a value are "".
    """

    cache: str
    hit: bool
    forwarded: str | None
    stored: bool
    parameters: dict[str, str] = field(default_factory=dict)


def parse_cache_status(header: str | None) -> list[CacheStatus]:
    """Read a `Cache-Status` header: the caches in order, the nearest to the origin first; none if unreadable."""
    if not header:
        return []
    found = [_member(part) for part in _split(header, ",")]
    return [] if None in found else [one for one in found if one is not None]


def own_status(header: str | None) -> CacheStatus | None:
    """Return the service's own entry of a `Cache-Status` header, or None."""
    return next((one for one in parse_cache_status(header) if one.cache.lower() == HEADSTART), None)


def parse_retry_after(header: str | None) -> float | None:
    """Read a `Retry-After` header, seconds or a date.

    Returns:
        Seconds to wait, at most an hour; None if there is no readable header.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    seconds = moment.timestamp() - time.time()
    return min(max(0.0, seconds), LONGEST_WAIT) if math.isfinite(seconds) else None


def _member(text: str) -> CacheStatus | None:
    name, *parameters = _split(text, ";")
    if not name:
        return None
    pairs = dict(_pair(parameter) for parameter in parameters)
    return CacheStatus(_bare(name), "hit" in pairs, pairs.get("fwd"), "stored" in pairs, pairs)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip().lower(), _bare(value.strip())


def _bare(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if len(text) > 1 and text[0] == text[-1] == '"' else text


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside quotes."""
    parts, start, quoted, position = [], 0, False, 0
    while position < len(text):
        sign = text[position]
        if quoted and sign == "\\":
            position += 1
        elif sign == '"':
            quoted = not quoted
        elif sign == separator and not quoted:
            parts.append(text[start:position].strip())
            start = position + 1
        position += 1
    return [*parts, text[start:].strip()]
