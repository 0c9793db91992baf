"""Crash rounds of the whole service: kill it, its engine or its Redis under load; bring it back; look."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.crash_load import Clients, Ledger
from benchmarks.crash_mend import mend, until
from benchmarks.crash_store import Round
from benchmarks.live import free_port
from cache_store import CacheStore, CacheUnavailable, StoreConfig

KINDS = ("service", "engine", "redis")
PROCESS = {"engine": "service.engine.child", "redis": "redis-server"}
PATIENCE_SECONDS = 600.0
STOP_SECONDS = 240.0
POLL_SECONDS = 0.05
LEAST_BUSY, MOST_BUSY = 1.0, 4.0
# Room for some 25 generations and 30 pictures: eviction never rests.
STATE_BYTES, IMAGE_BYTES, RAM_BYTES = 120_000, 200_000, 30_000
SETTINGS = {
    "state_bytes": str(STATE_BYTES),
    "image_bytes": str(IMAGE_BYTES),
    "ram_bytes": str(RAM_BYTES),
    "threads": "1",  # the engine is started again so often that it must leave a core to whoever is starting
    # On a busy machine a slow store is no fault.
    "store_timeout_seconds": "5",
}


class Service:
    """`headstart serve` on one port and one data folder, started again as often as it is killed.

    Args:
        folder: for data and log.
        settings: HEADSTART_ variables without the prefix, lower case, on top of `SETTINGS`.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = SETTINGS | dict(settings)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.data = folder / "data"
        self.log = folder / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it is not ready yet."""
        environment = os.environ | {f"HEADSTART_{name.upper()}": value for name, value in self._settings.items()}
        environment["HEADSTART_DATA_DIR"] = str(self.data)
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self._port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process started last."""
        assert self.process is not None
        return self.process

    def child(self, name: str) -> psutil.Process:
        """Return its child whose command line holds `name`.

        Raises:
            RuntimeError: it has none.
        """
        for process in psutil.Process(self.running.pid).children(recursive=True):
            if name in " ".join(process.cmdline()):
                return process
        raise RuntimeError(f"the service has no {name}")

    def stop(self) -> int:
        """End it in order; return its exit status, -9 if it did not end."""
        self.running.send_signal(signal.SIGTERM)
        try:
            return self.running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.running.kill()
            return self.running.wait()

    async def wait_healthy(self, http: httpx.AsyncClient) -> None:
        """Return once engine and cache both work.

        Raises:
            RuntimeError: it ended.
            TimeoutError: they never did.
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if self.running.poll() is not None:
                    raise RuntimeError(f"the service ended: {self.log.read_text(errors='replace')[-2000:]}")
                try:
                    health = (await http.get("/readyz")).json()
                    if health["engine"] == health["cache"] == "ok":
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(POLL_SECONDS)


@dataclass
class Scene:
    """A service under load."""

    service: Service
    clients: Clients
    ledger: Ledger

    async def round(self, kind: str, busy: float) -> Round:
        """Kill `kind` after so many seconds of load, wait for the recovery, and look into the store at rest."""
        await asyncio.sleep(busy)
        started = time.monotonic()
        if kind == "service":
            started = await self._kill_service()
        else:
            await self._kill_child(kind)
        await self.service.wait_healthy(self.clients.http)
        seconds = time.monotonic() - started
        if kind == "service":
            self.ledger.dead[-1] = (self.ledger.dead[-1][0], time.monotonic())
        await self.clients.pause()
        found, problems, loaded = await self._look()
        self.clients.resume()
        return Round("service", kind, seconds, tuple(problems), found, loaded)

    async def _kill_service(self) -> float:
        self.ledger.dead.append((time.monotonic(), float("inf")))
        self.service.running.kill()
        await asyncio.to_thread(self.service.running.wait)
        started = time.monotonic()
        self.service.start()
        return started

    async def _kill_child(self, kind: str) -> None:
        process = self.service.child(PROCESS[kind])
        before = (await self._stats())["engine"]["restarts"]
        process.kill()
        # Its death has to be noticed first: until then the service calls itself ready.
        async with asyncio.timeout(PATIENCE_SECONDS):
            if kind == "engine":
                await until(lambda: self._restarted(before))
            else:
                await asyncio.to_thread(process.wait)
                await self.clients.http.get("/v1/cache/entries")  # the broken connection is noticed

    async def _restarted(self, before: int) -> bool:
        return bool((await self._stats())["engine"]["restarts"] > before)

    async def _stats(self) -> dict[str, Any]:
        return dict((await self.clients.http.get("/v1/stats")).json())

    async def _look(self) -> tuple[int, list[str], int]:
        """Repair and check the store through a second one on the same Redis; load everything it holds."""
        await self._settle()
        entries = (await self.clients.http.get("/v1/cache/entries", params={"limit": 200})).json()["data"]
        for entry in entries:
            self.ledger.entry(entry)
        config = StoreConfig(
            data_dir=self.service.data.parent / "second",
            redis_url=f"unix://{self.service.data}/redis/redis.sock",
            object_url=f"file://{self.service.data}/objects",
            byte_budget=10 * STATE_BYTES,
            timeout_seconds=10.0,
        )
        store = await CacheStore.open(config)
        try:
            found, left = await mend(store)
            return len(found), left, await self._load_everything(store)
        finally:
            await store.close()

    async def _settle(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await until(self._settled)

    async def _settled(self) -> bool:
        return "headstart_cache_pending_writes 0.0" in (await self.clients.http.get("/metrics")).text

    async def _load_everything(self, store: CacheStore) -> int:
        """Load every state; one that is missing or not what its record says is wrong."""
        loaded = 0
        for summary in await store.recent("default", 100_000):
            for ref in summary.states:
                try:
                    state = await store.load(summary.entry_id, ref)
                except CacheUnavailable as error:
                    self.ledger.failed.append(f"a state cannot be read: {error}")
                    continue
                loaded += 1
                if state is None or abs(state.log_snr - ref.log_snr) > 1e-9:
                    self.ledger.wrong.append("a state at rest is missing or of another level")
        return loaded


async def run_rounds(
    folder: Path,
    rounds: int,
    seed: int,
    done: Callable[[], None] = lambda: None,
    *,
    settings: Mapping[str, str] | None = None,
    kinds: tuple[str, ...] = (),
) -> tuple[list[Round], Ledger, int]:
    """Kill so many times; return the rounds, what the clients saw, and the exit status at the end.

    Args:
        folder: for data and log.
        rounds: how many kills.
        seed: chooses what is killed, and when.
        done: called after each round.
        settings: of the service, on top of `SETTINGS`.
        kinds: what is killed, in this order; the rest is drawn.
    """
    rng = random.Random(seed)
    plan = [*kinds, *(rng.choice(KINDS) for _ in range(rounds - len(kinds)))]
    service, ledger = Service(folder, settings or {}), Ledger()
    clients = Clients(service.url, ledger, seed)
    scene = Scene(service, clients, ledger)
    service.start()
    try:
        await service.wait_healthy(clients.http)
        clients.start()
        found = []
        for kind in plan:
            found.append(await scene.round(kind, rng.uniform(LEAST_BUSY, MOST_BUSY)))
            done()
        await clients.pause()
    finally:
        await clients.close()
        status = await asyncio.to_thread(service.stop)
    return found, ledger, status
