"""Open-loop clients: they come when the plan says, whatever the service does, and some come back when told to."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

PATH = "/v1/images/generations"
TOO_MANY = 429


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of one client.

    Attributes:
        sent: seconds since the start.
        ended: likewise.
        status: of HTTP; 0 = it was given up when the run was over.
        retry_after: seconds, as told.
        device_seconds: the picture's share of the device.
    """

    sent: float
    ended: float
    status: int
    retry_after: int = 0
    device_seconds: float = 0.0


@dataclass
class Visitor:
    """A client with one wish: every attempt at it, first to last."""

    intended: float
    attempts: list[Attempt] = field(default_factory=list)


class OpenLoop:
    """Sends wishes at given times.

    Args:
        url: of the service.
        wish: fields of every request.
        returns: how often a refused client comes back, each time when it is told to.
        until: seconds since the start after which nobody waits any more.
    """

    def __init__(self, url: str, wish: dict[str, Any], *, returns: int, until: float) -> None:
        self._url = url
        self._wish = wish
        self._returns = returns
        self._until = until

    def run(self, times: Sequence[float]) -> list[Visitor]:
        """Send, and return every client's attempts."""
        return asyncio.run(self._run(times))

    async def _run(self, times: Sequence[float]) -> list[Visitor]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        visitors = [Visitor(time) for time in times]
        async with httpx.AsyncClient(base_url=self._url, timeout=None, limits=limits) as client:
            self._started = time.perf_counter()
            await asyncio.gather(*(self._visit(client, one, number) for number, one in enumerate(visitors)))
        return visitors

    async def _visit(self, client: httpx.AsyncClient, visitor: Visitor, number: int) -> None:
        await asyncio.sleep(max(0.0, visitor.intended - self._now))
        for _ in range(1 + self._returns):
            attempt = await self._ask(client, number)
            visitor.attempts.append(attempt)
            again = attempt.ended + attempt.retry_after
            if attempt.status != TOO_MANY or again >= self._until:
                return
            await asyncio.sleep(again - self._now)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> Attempt:
        sent = self._now
        body = {"prompt": f"overload, picture {number}", **self._wish}
        try:
            async with asyncio.timeout(self._until - sent):
                answer = await client.post(PATH, json=body)
        except TimeoutError:
            return Attempt(sent, self._now, 0)
        device = sum(float(answer.headers.get(name, 0)) for name in ("X-Denoise-Time", "X-Decode-Time"))
        retry = int(answer.headers.get("Retry-After", 0))
        return Attempt(sent, self._now, answer.status_code, retry, device)

    @property
    def _now(self) -> float:
        return time.perf_counter() - self._started


def closed_loop(url: str, wish: dict[str, Any], *, clients: int, each: int) -> list[Attempt]:
    """Let `clients` send `each` requests, one after the other; return all attempts."""
    return asyncio.run(_closed(url, wish, clients, each))


async def _closed(url: str, wish: dict[str, Any], clients: int, each: int) -> list[Attempt]:
    started = time.perf_counter()
    done: list[Attempt] = []

    async def one(client: httpx.AsyncClient, number: int) -> None:
        for _ in range(each):
            sent = time.perf_counter() - started
            answer = await client.post(PATH, json={"prompt": f"steady, client {number}", **wish})
            done.append(Attempt(sent, time.perf_counter() - started, answer.status_code))

    async with httpx.AsyncClient(base_url=url, timeout=None) as client:
        await asyncio.gather(*(one(client, number) for number in range(clients)))
    return done
