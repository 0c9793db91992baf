"""What each tenant has used in a span of time: counters that all replicas share."""

import asyncio
from dataclasses import dataclass

from cache_store.catalogue import PREFIX
from cache_store.link import RedisLink

# Checked and booked in one go: replicas that ask at the same moment do not both get the last of it.
_SPEND = """
local counter = ARGV[1]
if tonumber(redis.call('GET', counter) or '0') >= tonumber(ARGV[2]) then return 0 end
redis.call('INCRBYFLOAT', counter, ARGV[3])
redis.call('EXPIRE', counter, ARGV[4])
return 1
"""


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time in which one tenant's use is counted.

    Attributes:
        tenant: whose.
        start: Unix seconds.
        seconds: its length.
    """

    tenant: str
    start: int
    seconds: int

    @property
    def key(self) -> str:
        """The counter's name in Redis."""
        return f"{PREFIX}usage:{self.tenant}:{self.seconds}:{self.start}"


class Usage:
    """Counters of use in Redis, kept a little longer than the span they are for.

    Args:
        link: the connection.
        timeout_seconds: bound on a call.
    """

    def __init__(self, link: RedisLink, timeout_seconds: float) -> None:
        self._link = link
        self._timeout = timeout_seconds

    async def try_spend(self, span: Span, amount: float, limit: float) -> bool:
        """Book `amount` if less than `limit` is used up yet; tell whether it was. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            booked = await self._link.script(_SPEND, span.key, limit, amount, 2 * span.seconds)
        return bool(booked)

    async def correct(self, span: Span, amount: float) -> None:
        """Add `amount`, which may be negative, to what was booked. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            await self._link.batch([("INCRBYFLOAT", span.key, amount), ("EXPIRE", span.key, 2 * span.seconds)])

    async def used(self, span: Span) -> float:
        """Return what was used. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            return float(await self._link.call("GET", span.key) or 0.0)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout
