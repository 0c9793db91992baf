"""When a chaos run is over: do the jobs stand as they ended, are the pictures the right ones, is the store whole?"""

import asyncio
import base64
import time
from collections import Counter
from typing import Any

import httpx

from benchmarks.chaos_client import PICTURE_FIELDS
from benchmarks.chaos_ledger import ChaosLedger, Made
from benchmarks.chaos_mix import JOBS
from benchmarks.crash_mend import mend
from benchmarks.crash_service import Service
from benchmarks.soak_audit import Exposition
from benchmarks.soak_mix import IMAGES
from cache_store import CacheStore, StoreConfig

SETTLE_SECONDS = 120.0
MOST_COMPARED, COMPARED_SHARE = 200, 0.1
HURRY = 8


async def settle(http: httpx.AsyncClient) -> None:
    """Wait until the service has nothing left to do."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        if Exposition((await http.get("/metrics")).text).at_rest:
            return
        await asyncio.sleep(0.2)


async def everything(service: Service, http: httpx.AsyncClient, ledger: ChaosLedger, requests: int) -> dict[str, Any]:
    """Check all of it after so many requests; what is wrong goes into the ledger, too."""
    compared = min(MOST_COMPARED, int(COMPARED_SHARE * requests))
    ledger.judge()
    metrics = Exposition((await http.get("/metrics")).text)
    if not metrics.at_rest:
        ledger.fault("metrics", "pictures, jobs or writes are counted though nobody is there")
    return {
        "at_rest": metrics.at_rest,
        "jobs_asked_again": await _jobs_again(http, ledger),
        "pictures": await _pictures(http, ledger, compared),
        "replays": await _replays(http, ledger, compared),
        "store": await _integrity(service, ledger),
    }


async def _jobs_again(http: httpx.AsyncClient, ledger: ChaosLedger) -> dict[str, int]:
    """Ask for every accepted job once more: it has to stand as it ended."""
    turn, found = asyncio.Semaphore(HURRY), Counter[str]()

    async def ask(job_id: str, end: str) -> None:
        async with turn:
            answer = await http.get(f"{JOBS}/{job_id}")
        now = "deleted" if answer.status_code == 404 else str(answer.json().get("status", answer.status_code))
        found["same" if now == end else "other"] += 1
        if now != end:
            ledger.fault("job again", f"{end}, and at the end {now}")

    await asyncio.gather(*(ask(job_id, note.end) for job_id, note in ledger.jobs.items() if note.end))
    return dict(found)


async def _pictures(http: httpx.AsyncClient, ledger: ChaosLedger, most: int) -> dict[str, int]:
    """Draw a sample of the full runs and exact repeats again, past the cache."""
    found: Counter[str] = Counter()
    for made in ledger.full[:most]:
        wish = {name: value for name, value in made.wish.items() if name in PICTURE_FIELDS}
        again = wish | {"seed": made.drawn.seed, "cache": {"mode": "off"}}
        answer = await http.post(IMAGES, json=again)
        same = base64.b64decode(answer.json()["data"][0]["b64_json"]) == made.drawn.data
        found["identical" if same else "other"] += 1
        if not same:
            ledger.fault("picture", f"{made.drawn.verdict}: drawn undisturbed it is another")
    return dict(found)


async def _replays(http: httpx.AsyncClient, ledger: ChaosLedger, most: int) -> dict[str, int]:
    """Replay a sample of the resumed runs; one whose state, or record, is gone cannot be compared."""
    found: Counter[str] = Counter()
    for made in ledger.resumed[:most]:
        end = await _replayed(http, made)
        found[end] += 1
        if end not in ("identical", "404 not_found", "410 state_gone"):
            ledger.fault("replay", end)
    return dict(found)


async def _replayed(http: httpx.AsyncClient, made: Made) -> str:
    answer = await http.post(f"/v1/generations/{made.drawn.generation}/replay", json={})
    body = answer.json()
    if answer.status_code != 200:
        return f"{answer.status_code} {body['error']['code']}"
    return "identical" if body["identical"] else f"differs by {body['max_difference']}"


async def _integrity(service: Service, ledger: ChaosLedger) -> dict[str, int]:
    """Repair and check the store through a second one on the same Redis."""
    config = StoreConfig(
        data_dir=service.data.parent / "second",
        redis_url=f"unix://{service.data}/redis/redis.sock",
        object_url=f"file://{service.data}/objects",
        byte_budget=2**30,
        timeout_seconds=10.0,
    )
    store = await CacheStore.open(config)
    try:
        found, left = await mend(store)
    finally:
        await store.close()
    for problem in left:
        ledger.fault("store", problem)
    return {"problems_before_repair": len(found), "problems_after_repair": len(left)}
