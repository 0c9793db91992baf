"""What the chaos tests do to a store, and what they ask of it afterwards."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from benchmarks import crash_mend
from benchmarks import crash_world as world
from benchmarks.crash_mend import mend
from cache_store import CacheStore, CacheUnavailable

FIRST_ID = 2**40
LIMIT_SECONDS = 30.0
Open = Callable[..., Awaitable[CacheStore]]


async def remember(store: CacheStore, numbers: Iterable[int]) -> None:
    """Remember these numbers under ids that tell which they are, or lose them."""
    for number in numbers:
        entry = replace(world.entry(number), entry_id=FIRST_ID + number)
        store.remember(entry, world.states(number), world.picture(number))
    await store.flush()


async def look(store: CacheStore, numbers: Iterable[int]) -> Counter[str]:
    """Ask for everything, as requests do; count what came. A wrong answer, or a fault, fails the test."""
    seen: Counter[str] = Counter()
    for number in numbers:
        for ask in (_resume, _repeat):
            try:
                await ask(store, number, seen)
            except CacheUnavailable:
                seen["unavailable"] += 1
    return seen


async def _resume(store: CacheStore, number: int, seen: Counter[str]) -> None:
    for candidate in await store.search(world.SIGNATURE, world.vector(number), 2):
        for ref in candidate.states:
            state = await store.load(candidate.entry_id, ref)
            seen["gone" if state is None else "loaded"] += 1
            assert state is None or world.is_right(candidate.entry_id - FIRST_ID, state)
            assert state is None or abs(state.log_snr - ref.log_snr) < 1e-9


async def _repeat(store: CacheStore, number: int, seen: Counter[str]) -> None:
    hit = await store.find_exact(world.exact_key(number))
    seen["no picture" if hit is None else "pictures"] += 1
    assert hit is None or hit.image.data == world.picture(number).data


async def recovered(store: CacheStore, number: int) -> None:
    """Wait until the store remembers again, and see that it is whole."""

    async def remembers() -> bool:
        await remember(store, [number])
        seen = await look(store, [number])
        return seen["pictures"] > 0 and seen["loaded"] > 0

    await until(remembers)
    _, left = await mend(store)
    assert left == []


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(LIMIT_SECONDS):
        await crash_mend.until(reached)
