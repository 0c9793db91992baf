"""What a chaos run does to the service: kills, stalls, a full disk, and some of them together."""

import asyncio
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.crash_mend import until
from benchmarks.crash_service import PROCESS, Service
from benchmarks.small_disk import Disk
from benchmarks.soak_faults import reached

FAULTS = {
    "engine-kill": 10,
    "redis-kill": 10,
    "redis-stall": 4,
    "disk-full": 6,
    "disk-full+redis-kill": 3,
    "disk-full+engine-kill": 2,
    "engine-kill+redis-kill": 3,
}
"""How often each happens in a full run."""

QUICK_FAULTS = {"engine-kill": 1, "redis-kill": 1, "redis-stall": 1, "disk-full": 1, "disk-full+redis-kill": 1}
# The rest of the run shows whether anything grows at rest.
FAULTY_SHARE = 0.7
STALL_SECONDS = 3.0
FULL_SECONDS = 4.0
# What had begun under a fault may end a little after it.
SLACK_SECONDS = 3.0
RECOVERY_SECONDS = 600.0


@dataclass
class Weather:
    """When faults were under way, by time.monotonic()."""

    storms: list[tuple[float, float]] = field(default_factory=list)

    def excuses(self, begun: float, ended: float) -> bool:
        """Whether something between these times may be put down to a fault."""
        return any(first <= ended and begun <= last + SLACK_SECONDS for first, last in self.storms)


@dataclass
class Storms:
    """Inflicts faults on a service under load.

    Attributes:
        service: which.
        http: a client of it.
        disk: that its data lie on; None where there is none that could be filled.
        weather: hears of every fault.
    """

    service: Service
    http: httpx.AsyncClient
    disk: Disk | None
    weather: Weather = field(default_factory=Weather)

    async def inflict(self, plan: list[tuple[int, str]], finished: Callable[[], int]) -> list[dict[str, Any]]:
        """Carry out a plan; return what was done and how long each recovery took.

        Raises:
            TimeoutError: the service did not recover.
        """
        done = []
        for at, kind in plan:
            await reached(finished, at)
            async with asyncio.timeout(RECOVERY_SECONDS):
                done.append({"at": finished(), "kind": kind, "recovery_seconds": await self._storm(kind)})
        return done

    async def _storm(self, kind: str) -> float:
        """Inflict one fault, wait until it is over, and return how long the service took after that."""
        self.weather.storms.append((time.monotonic(), float("inf")))
        kinds = kind.split("+")
        full = self.disk if "disk-full" in kinds else None
        if full is not None:
            await asyncio.to_thread(full.fill)
        for one in kinds:
            if one != "disk-full":
                await self._hit(one)
        if full is not None:
            await asyncio.sleep(FULL_SECONDS)
            await asyncio.to_thread(full.clear)
        over = time.monotonic()
        await self.service.wait_healthy(self.http)
        begun, _ = self.weather.storms[-1]
        self.weather.storms[-1] = (begun, time.monotonic())
        return time.monotonic() - over

    async def _hit(self, kind: str) -> None:
        part, _, how = kind.partition("-")
        process = self.service.child(PROCESS[part])
        if how == "stall":
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(STALL_SECONDS)
            process.send_signal(signal.SIGCONT)
            return
        before = await self._restarts()
        process.kill()
        # Its death has to be noticed first: until then the service calls itself ready.
        if part == "redis":
            await asyncio.to_thread(process.wait)
            await self.http.get("/v1/cache/entries")
        else:
            await until(lambda: self._restarted(before))

    async def _restarted(self, before: int) -> bool:
        return await self._restarts() > before

    async def _restarts(self) -> int:
        return int((await self.http.get("/v1/stats")).json()["engine"]["restarts"])


def plan_of(requests: int, counts: dict[str, int], seed: int) -> list[tuple[int, str]]:
    """Spread faults at random over the faulty share of a run; each comes with the request it waits for."""
    rng = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    rng.shuffle(kinds)
    last = int(FAULTY_SHARE * requests)
    return list(zip(sorted(rng.sample(range(requests // 30, last), len(kinds))), kinds, strict=True))
