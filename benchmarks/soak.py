"""Does the service survive a long day? Thousands of requests of every kind, while its engine and Redis are killed.

A real service on the shipped model, with a queue and a cache so small that both overflow. Clients send a seeded mix
(`soak_mix`): plain and streamed pictures, cache directives, requests whose client hangs up at a random moment, and
wrong ones. The first part of the run is disturbed (`soak_faults`); the rest shows whether memory grows at rest. A
probe that bypasses the cache is sent all along, and full runs that were drawn in mixed batches are drawn again alone:
no request may show in the picture of another.
"""

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from benchmarks import soak_faults, soak_report, soak_watch
from benchmarks.beside import beside
from benchmarks.live import Running, running_service
from benchmarks.soak_audit import Exposition, check_log, check_metrics
from benchmarks.soak_client import LIMIT_SECONDS, Drawn, Outcome, send
from benchmarks.soak_mix import Mix, probe, repeat_of
from service.access import create_key
from service.access.identity import Rights

SEED = 11
CLIENTS = 24
# Above what the clients usually hold, below what they can: some requests are turned away.
QUEUE_LIMIT = CLIENTS + 6
REQUESTS, QUICK_REQUESTS = 10_000, 400
KILLS, REQUESTS_PER_KILL = 8, 150
PROBE_EVERY = 250
PROBE_SEED = 77
PROBES_ALONE = 3
TURNED_AWAY = 429
REPEATS = 64
REPEATED = ("plain", "directive")
FULL_RUNS = ("MISS", "BYPASS", "REFRESH")
# Generous: the machine may be busy with other things, and slow is not hung.
START_SECONDS = 600.0
SETTLE_SECONDS = 60.0
# Bytes of states and pictures kept per request of the soak, so that the cache is full before the second half.
STATE_BYTES, IMAGE_BYTES = 900, 1800
RAM_BYTES = 4 * 1024**2


class Soak:
    """One run of the soak against one service.

    Args:
        running: the service.
        client: HTTP client with the service's base URL.
        mix: draws the requests.
        requests: how many.
        bar: shows progress.
    """

    def __init__(self, running: Running, client: httpx.AsyncClient, mix: Mix, requests: int, bar: tqdm) -> None:
        self._running = running
        self._client = client
        self._mix = mix
        self._requests = requests
        self._bar = bar
        self._random = random.Random(SEED)
        self._full_runs = 0
        self._sample: list[Outcome] = []
        self.outcomes: list[Outcome] = []
        self.probes: list[Outcome] = []
        self.alone: list[Outcome] = []
        self.repeats: list[tuple[Drawn, Outcome]] = []
        self.samples: list[soak_watch.Sample] = []

    @property
    def finished(self) -> int:
        """Requests of the mix that have ended."""
        return len(self.outcomes)

    async def go(self, kills: int) -> list[dict[str, Any]]:
        """Send everything; return what was done to the service meanwhile."""
        await self.probe_alone()
        faults = soak_faults.schedule(self._requests, kills)
        every = 1.0 if self._requests > QUICK_REQUESTS else 0.5
        watching = soak_watch.watch(self._running, self._client, lambda: self.finished, every, self.samples)
        numbers = iter(range(self._requests))
        async with beside(watching, self._probe_on_the_way()), asyncio.TaskGroup() as group:
            done = group.create_task(soak_faults.inflict(self._running, self._client, faults, lambda: self.finished))
            for _ in range(CLIENTS):
                group.create_task(self._work(numbers))
        await self.probe_alone()
        return done.result()

    async def _work(self, numbers: Iterator[int]) -> None:
        """One client: sends request after request, and waits when told to."""
        for number in numbers:
            outcome = await send(self._client, self._mix.shot(number))
            self._keep(outcome)
            self._bar.update()
            if outcome.retry_after:
                await asyncio.sleep(outcome.retry_after)

    def _keep(self, outcome: Outcome) -> None:
        """Keep the outcome without its pictures, unless it falls into the sample of the full runs (a reservoir)."""
        self.outcomes.append(outcome.light())
        if not _repeatable(outcome):
            return
        self._full_runs += 1
        if len(self._sample) < REPEATS:
            self._sample.append(outcome)
        elif (place := self._random.randrange(self._full_runs)) < REPEATS:
            self._sample[place] = outcome

    async def _probe_on_the_way(self) -> None:
        for at in itertools.count(PROBE_EVERY, PROBE_EVERY):
            await soak_faults.reached(lambda: self.finished, at)
            await self._probe()

    async def _probe(self) -> Outcome:
        while True:
            outcome = await send(self._client, probe(PROBE_SEED))
            self.probes.append(outcome)
            if outcome.status != TURNED_AWAY:
                return outcome
            await asyncio.sleep(outcome.retry_after)

    async def probe_alone(self) -> None:
        """Send probes while nothing else runs."""
        self.alone += [await self._probe() for _ in range(PROBES_ALONE)]

    async def repeat(self) -> None:
        """Draw the sampled full runs again, one at a time and past the cache."""
        for outcome in self._sample:
            first = next(drawn for drawn in outcome.drawn if drawn.verdict in FULL_RUNS)
            self.repeats.append((first, await send(self._client, repeat_of(outcome.shot, first.seed))))


def _repeatable(outcome: Outcome) -> bool:
    """Whether it holds a full run that was delivered without loss."""
    if outcome.shot.kind not in REPEATED or "output_format" in outcome.shot.wish:
        return False
    return any(drawn.verdict in FULL_RUNS for drawn in outcome.drawn)


def run(*, quick: bool, quiet: bool, requests: int | None = None, keyed: bool = False) -> dict[str, Any]:
    """Soak and return the report; `requests` says how many, else `quick` does; with `keyed` clients need a key."""
    count = requests or (QUICK_REQUESTS if quick else REQUESTS)
    settings = {
        "queue_limit": str(QUEUE_LIMIT),
        "state_bytes": str(STATE_BYTES * count),
        "image_bytes": str(IMAGE_BYTES * count),
        "ram_bytes": str(min(RAM_BYTES, STATE_BYTES * count // 2)),
    }
    kills = max(1, min(KILLS, count // REQUESTS_PER_KILL))
    with tempfile.TemporaryDirectory(prefix="headstart-soak-") as folder:
        headers = key_header(Path(folder) / "data" / "keys.json") if keyed else {}
        with (
            running_service(Path(folder), settings, patience_seconds=START_SECONDS) as running,
            tqdm(total=count, disable=quiet) as bar,
        ):
            report = asyncio.run(_soak(running, count, kills, bar, headers))
        report["log"] = check_log(running.log)
        report["exit_status"] = running.process.returncode
    report["settings"] = settings
    return {"headline": soak_report.headline(report), "passed": soak_report.passed(report), **report}


def key_header(path: Path) -> dict[str, str]:
    """Make an operator's key, which the service will ask for, and return the header that carries it."""
    key, _ = create_key(path, "soak", "", Rights(operator=True))
    return {"Authorization": f"Bearer {key}"}


async def solvers_of(client: httpx.AsyncClient) -> tuple[str, ...]:
    """Return the served model's solvers.

    Raises:
        RuntimeError: the service asks for a key that the client does not have.
    """
    answer = await client.get("/v1/models")
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise RuntimeError(
            "the service asks for an API key: is HEADSTART_KEYS_FILE set? --keyed makes keys of its own"
        )
    return tuple(answer.json()["data"][0]["solvers"])


async def _soak(running: Running, requests: int, kills: int, bar: tqdm, headers: Mapping[str, str]) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
    timeout = httpx.Timeout(LIMIT_SECONDS * 2)
    async with httpx.AsyncClient(base_url=running.url, limits=limits, timeout=timeout, headers=headers) as client:
        soak = Soak(running, client, Mix(SEED, await solvers_of(client)), requests, bar)
        started = time.perf_counter()
        faults = await soak.go(kills)
        seconds = time.perf_counter() - started
        await soak.repeat()
        found = await _at_rest(client)
    everything = [*soak.outcomes, *soak.probes, *(again for _, again in soak.repeats)]
    return {
        "requests": requests,
        "clients": CLIENTS,
        "kills": kills,
        "requests_per_second": requests / seconds,
        **soak_report.ends(soak.outcomes),
        "wrong": [soak_report.told(outcome) for outcome in everything if outcome.end in ("hung", "broken", "wrong")],
        "probes": soak_report.probes(soak.probes, soak.alone),
        "repeats": soak_report.repeats(soak.repeats),
        "faults": faults,
        "growth": soak_watch.growth(soak.samples, requests),
        "checks": check_metrics(found, everything, kills),
        "series": soak_watch.series(soak.samples),
    }


async def _at_rest(client: httpx.AsyncClient) -> Exposition:
    """Return the metrics once the service has nothing left to do, or when patience ends."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = Exposition((await client.get("/metrics")).text)
        if found.at_rest or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)
