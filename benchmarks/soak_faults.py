"""What a soak does to the service while it works: kill its engine, kill and stop its Redis."""

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from benchmarks.live import Running

ENGINE, REDIS = "service.engine.child", "redis-server"
# All faults fall into this share of the run: what follows shows memory at rest.
FAULTY_SHARE = 0.45
STALL_SECONDS = 3.0
POLL_SECONDS = 0.05
# A busy machine may take minutes to load the model again.
RECOVERY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens once so many requests have ended: "engine-kill", "redis-kill" or "redis-stall"."""

    at: int
    kind: str


def schedule(requests: int, kills: int) -> list[Fault]:
    """Spread engine kills evenly over the faulty share; Redis is stalled and killed between two of them."""
    span = FAULTY_SHARE * requests / kills
    faults = [Fault(round(span * (kill + 0.5)), "engine-kill") for kill in range(kills)]
    redis = [
        Fault(round(span * (kills // 2)), "redis-stall"),
        Fault(round(span * (kills - kills // 4)), "redis-kill"),
    ]
    return sorted(faults + redis, key=lambda fault: fault.at)


def child_of(running: Running, name: str) -> psutil.Process | None:
    """Return the service's child process whose command line holds `name`, if it lives."""
    try:
        for process in psutil.Process(running.process.pid).children(recursive=True):
            if name in " ".join(process.cmdline()):
                return process
    except psutil.NoSuchProcess:
        pass
    return None


async def inflict(
    running: Running, client: httpx.AsyncClient, faults: list[Fault], finished: Callable[[], int]
) -> list[dict[str, Any]]:
    """Carry out the faults when their time has come; return what was done and how long each recovery took.

    Raises:
        TimeoutError: the service did not recover.
    """
    done = []
    for fault in faults:
        await reached(finished, fault.at)
        async with asyncio.timeout(RECOVERY_SECONDS):
            await _healthy(client, engine="ok", cache="ok")
            started = time.perf_counter()
            await _inflict(running, client, fault.kind)
            await _healthy(client, engine="ok", cache="ok")
        done.append({"at": finished(), "kind": fault.kind, "recovery_seconds": time.perf_counter() - started})
    return done


async def _inflict(running: Running, client: httpx.AsyncClient, kind: str) -> None:
    process = child_of(running, ENGINE if kind == "engine-kill" else REDIS)
    if process is None:
        raise RuntimeError(f"{kind}: there is no such process")
    if kind == "redis-stall":
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STALL_SECONDS)
        process.send_signal(signal.SIGCONT)
        return
    before = (await _stats(client))["engine"]["restarts"]
    process.kill()
    # Its death has to be noticed first: until then the service calls itself ready.
    while kind == "engine-kill":
        if (await _stats(client))["engine"]["restarts"] > before:
            return
        await asyncio.sleep(POLL_SECONDS)


async def reached(finished: Callable[[], int], at: int) -> None:
    """Wait until so many requests have ended."""
    while True:
        if finished() >= at:
            return
        await asyncio.sleep(POLL_SECONDS)


async def _healthy(client: httpx.AsyncClient, **states: str) -> None:
    while True:
        health = (await client.get("/readyz")).json()
        if all(health[part] == state for part, state in states.items()):
            return
        await asyncio.sleep(POLL_SECONDS)


async def _stats(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get("/v1/stats")).json())
