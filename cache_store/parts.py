"""What the store is made of, handed around as one."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field

from cache_store.catalogue import Catalogue
from cache_store.index import IndexThread, PartitionedIndex
from cache_store.link import RedisLink
from cache_store.objects import Objects
from cache_store.ram import Key, RamTier
from cache_store.ranking import Ranking

BACKGROUND_SECONDS = 5.0
"""Bound on one step of work that no request waits for."""


class Pins:
    """States being loaded now, which eviction leaves alone."""

    def __init__(self) -> None:
        """Start with none."""
        self._held: Counter[Key] = Counter()

    def __contains__(self, key: object) -> bool:
        """Return whether a load of `key` is under way."""
        return key in self._held

    def __len__(self) -> int:
        """Return how many states are pinned."""
        return len(self._held)

    @contextmanager
    def hold(self, key: Key) -> Iterator[None]:
        """Keep `key` pinned inside the block."""
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if self._held[key] <= 0:
                del self._held[key]


@dataclass(frozen=True, slots=True)
class Parts:
    """The store's parts: catalogue behind its link, objects, RAM tier, index on its thread, pins, eviction policy."""

    link: RedisLink
    catalogue: Catalogue
    objects: Objects
    ram: RamTier
    index: PartitionedIndex = field(default_factory=PartitionedIndex)
    thread: IndexThread = field(default_factory=IndexThread)
    pins: Pins = field(default_factory=Pins)
    ranking: Ranking = field(default_factory=lambda: Ranking("lru", 0))

    def redis(self, seconds: float = BACKGROUND_SECONDS) -> AbstractAsyncContextManager[None]:
        """Guard calls to the catalogue, bounded by `seconds`."""
        return self.link.guard(asyncio.get_running_loop().time() + seconds)

    def files(self, seconds: float = BACKGROUND_SECONDS) -> AbstractAsyncContextManager[None]:
        """Guard calls to the object store, bounded by `seconds`."""
        return self.objects.guard(asyncio.get_running_loop().time() + seconds)
