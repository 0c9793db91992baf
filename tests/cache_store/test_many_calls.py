"""More calls at once than Redis is sent at once: they wait their turn, and nothing takes Redis for gone."""

import asyncio
import os
import signal

from store_nouns import until

from cache_store import CacheStore, CacheUnavailable
from cache_store.link import _MOST_CALLS

MANY = 8 * _MOST_CALLS


async def clients(store: CacheStore) -> int:
    async with store._link.guard(asyncio.get_running_loop().time() + 5):
        info = await store._link.call("INFO", "clients")
    return int(info["connected_clients"])


async def test_many_calls_at_once_are_all_answered(open_store, make) -> None:
    store = await open_store(timeout_seconds=20.0)
    assert store.remember(make.entry(1), make.states(1), make.image)
    await store.flush()
    hits = await asyncio.gather(*(store.find_exact("anna-1") for _ in range(MANY)))
    assert all(hit is not None for hit in hits)
    found = await asyncio.gather(*(store.search(make.signature, make.vector(1)) for _ in range(MANY)))
    assert all(len(one) == 1 for one in found)
    assert store._link.available
    assert await clients(store) <= _MOST_CALLS + 4


async def test_those_that_cannot_wait_are_told_and_redis_is_not_taken_for_gone(open_store, make) -> None:
    store = await open_store(timeout_seconds=0.1)
    link = store._link

    async def hold() -> None:
        while True:
            link._answered(await link._execute("PING"))

    for _ in range(_MOST_CALLS):
        await link._turn.acquire()
    holding = asyncio.create_task(hold())
    answers = await asyncio.gather(*(store.find_exact("anna-1") for _ in range(20)), return_exceptions=True)
    assert {str(one) for one in answers} == {"redis did not answer in time"}
    assert link.available
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    for _ in range(_MOST_CALLS):
        link._turn.release()
    assert await store.find_exact("anna-1") is None


async def test_calls_given_up_while_they_wait_leave_their_turn(open_store, make) -> None:
    store = await open_store(timeout_seconds=1.0)
    pid = store._server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        calls = [asyncio.create_task(store.find_exact("anna-1")) for _ in range(MANY)]
        await asyncio.sleep(0.1)
        for call in calls[::2]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one) for one in answers} == {asyncio.CancelledError, CacheUnavailable}
    finally:
        os.kill(pid, signal.SIGCONT)

    async def all_answered() -> bool:
        calls = (store.find_exact("anna-1") for _ in range(_MOST_CALLS))
        return set(await asyncio.gather(*calls, return_exceptions=True)) == {None}

    await until(all_answered)
