"""Does the service live through anything, and does every accepted job end? All kinds of harm at once, under load.

A real service on a tiny model with random weights (engine restarts and thousands of requests are what counts here,
not pictures), its data on a small disk of its own. Clients send good requests, jobs, events, repeats under one key,
wrong and half-sent bodies, and hang up midway (`chaos_mix`), while engine and Redis are killed and stopped and the
disk runs full (`chaos_faults`). A probe asks /livez all along. Every accepted job is followed to its end and asked
for again when all is over; a sample of the pictures is drawn again undisturbed and has to be the same to the bit; the
store is checked.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from benchmarks import chaos_check, chaos_report, soak_watch
from benchmarks.beside import beside
from benchmarks.chaos_client import ChaosClient
from benchmarks.chaos_faults import FAULTS, QUICK_FAULTS, Storms, plan_of
from benchmarks.chaos_ledger import ChaosLedger
from benchmarks.chaos_mix import ChaosMix
from benchmarks.crash_mend import until
from benchmarks.crash_service import Service
from benchmarks.live import Running
from benchmarks.small_disk import Disk, NoDiskError, small_disk
from benchmarks.soak import solvers_of
from benchmarks.soak_audit import check_log
from benchmarks.tiny_model import build_resuming_model

SEED = 13
CLIENTS = 20
REQUESTS, QUICK_REQUESTS = 10_000, 600
LIMIT_SECONDS = 900.0
DISK_MEBIBYTES = 256
MIB = 2**20
SETTINGS = {
    # So that a picture does not depend on what is drawn beside it.
    "batch_invariant": "true",
    "queue_limit": str(CLIENTS + 2),
    "state_bytes": str(6 * MIB),
    "image_bytes": str(4 * MIB),
    "ram_bytes": str(MIB),
    "result_bytes": str(64 * MIB),
    # Every accepted job is asked for again at the end.
    "results": str(2 * REQUESTS),
    "store_timeout_seconds": "2",
}


def run(*, quick: bool, quiet: bool, requests: int | None = None) -> dict[str, Any]:
    """Run and return the report; `requests` says how many, else `quick` does."""
    count = requests or (QUICK_REQUESTS if quick else REQUESTS)
    faults = FAULTS if count == REQUESTS else QUICK_FAULTS
    return measure(count, faults, quiet=quiet)


def measure(requests: int, faults: dict[str, int], *, quiet: bool, clients: int = CLIENTS) -> dict[str, Any]:
    """Send so many requests while these faults happen, each as often as it says."""
    with tempfile.TemporaryDirectory(prefix="headstart-chaos-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "data").mkdir()
        disk, why = _disk(folder / "data", stack)
        if disk is None:
            faults = {kind: count for kind, count in faults.items() if "disk" not in kind}
        model = build_resuming_model(folder / "model")
        service = Service(folder, SETTINGS | {"model": str(model)})
        service.start()
        try:
            with tqdm(total=requests, disable=quiet) as bar:
                chaos = asyncio.run(_chaos(service, disk, plan_of(requests, faults, SEED), requests, clients, bar))
        finally:
            status = service.stop()
        chaos |= {"disk": why, "log": check_log(service.log), "exit_status": status}
    return chaos_report.report(chaos)


def _disk(folder: Path, stack: ExitStack) -> tuple[Disk | None, str]:
    """Return a disk for the service's data and what to say of it; None where there is none to be had."""
    try:
        return stack.enter_context(small_disk(folder, DISK_MEBIBYTES)), f"a disk of {DISK_MEBIBYTES} MiB"
    except NoDiskError as error:
        return None, f"never full: {error}"


async def _chaos(
    service: Service, disk: Disk | None, plan: list[tuple[int, str]], requests: int, clients: int, bar: tqdm
) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=LIMIT_SECONDS) as http:
        await service.wait_healthy(http)
        chaos = Chaos(service, disk, http, bar)
        start = await chaos.look()
        seconds, faults = await chaos.go(requests, clients, plan)
        await chaos_check.settle(http)
        checks = await chaos_check.everything(service, http, chaos.ledger, requests)
        end = await chaos.look()
    return {
        "requests": requests,
        "clients": clients,
        "seconds_of_load": seconds,
        "faults": faults,
        "ledger": chaos.ledger,
        "checks": checks,
        "livez": chaos.livez,
        "processes": {"start": start, "end": end},
        "growth": soak_watch.growth(chaos.samples, requests),
    }


class Chaos:
    """One run against one service.

    Args:
        service: which.
        disk: that its data lie on, if it may be filled.
        http: a client of it.
        bar: shows progress.
    """

    def __init__(self, service: Service, disk: Disk | None, http: httpx.AsyncClient, bar: tqdm) -> None:
        self._service = service
        self._http = http
        self._bar = bar
        self._storms = Storms(service, http, disk)
        self._finished = 0
        self._running = Running(service.url, service.running, service.log, service.data)
        self.ledger = ChaosLedger(self._storms.weather)
        self.livez: list[tuple[bool, float]] = []
        self.samples: list[soak_watch.Sample] = []

    async def go(
        self, requests: int, clients: int, plan: list[tuple[int, str]]
    ) -> tuple[float, list[dict[str, Any]]]:
        """Send everything; return how long it took and what was done to the service meanwhile."""
        mix, numbers = ChaosMix(SEED, await solvers_of(self._http)), iter(range(requests))
        client = ChaosClient(self._http, int(self._service.url.rsplit(":", 1)[1]), self.ledger)
        watching = soak_watch.watch(self._running, self._http, lambda: self._finished, 1.0, self.samples)
        started = time.monotonic()
        async with beside(watching, self._probe()), asyncio.TaskGroup() as group:
            dying = group.create_task(self._raise_dead())
            done = group.create_task(self._storms.inflict(plan, lambda: self._finished))
            work = [group.create_task(self._work(client, mix, numbers)) for _ in range(clients)]
            await asyncio.wait([done, *work])
            dying.cancel()
        return time.monotonic() - started, done.result()

    async def _work(self, client: ChaosClient, mix: ChaosMix, numbers: Iterator[int]) -> None:
        for number in numbers:
            await client.run(mix.errand(number))
            self._finished += 1
            self._bar.update()

    async def _raise_dead(self) -> None:
        """Raise RuntimeError when the service ends: nothing may do that to it."""
        await until(self._dead)
        end = self._service.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the service ended with status {self._service.running.returncode}: {end}")

    async def _dead(self) -> bool:
        return self._service.running.poll() is not None

    async def _probe(self) -> None:
        """Ask /livez, each time on a connection of its own; note whether it answered, and when."""
        for _ in itertools.count():
            begun = time.monotonic()
            try:
                async with httpx.AsyncClient(base_url=self._service.url, timeout=30.0) as probe:
                    alive = (await probe.get("/livez")).status_code == 200
            except httpx.TransportError:
                alive = False
            self.livez.append((alive, time.monotonic() - begun))
            await asyncio.sleep(0.5)

    async def look(self) -> dict[str, dict[str, int]]:
        """Return memory, descriptors and threads of the service's processes now."""
        found = {part: soak_watch.measure(process) for part, process in soak_watch.processes(self._running).items()}
        return {part: figures for part, figures in found.items() if figures is not None}
