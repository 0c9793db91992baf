"""What the store is made of, handed around as one."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field

from cache_store.catalogue import Catalogue
from cache_store.deposits import Deposits
from cache_store.generations import Generations
from cache_store.ghosts import Ghosts
from cache_store.index import IndexThread, PartitionedIndex
from cache_store.link import RedisLink
from cache_store.objects import Objects
from cache_store.ram import Key, RamTier
from cache_store.ranking import Ranking

BACKGROUND_SECONDS = 5.0
"""Bound on one step of work that no request waits for."""


class Pins:
    """States in use, which eviction leaves alone: being loaded, or leased to somebody about to load them.

    A lease lasts a moment only, so that one nobody comes back for does no harm.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._held: Counter[Key] = Counter()
        self._leases: dict[Key, tuple[int, float]] = {}
        self._swept = 0.0

    def __contains__(self, key: object) -> bool:
        """Return whether `key` is being loaded or leased."""
        return key in self._held or self._leases.get(key, (0, 0.0))[1] > time.monotonic()  # type: ignore[call-overload]

    def __len__(self) -> int:
        """Return how many states are pinned or leased."""
        self._sweep(time.monotonic())
        return len(self._held.keys() | self._leases.keys())

    @property
    def leased_seconds(self) -> float:
        """When the last lease ends, counted from now; 0 when there is none."""
        now = time.monotonic()
        return max((until - now for _, until in self._leases.values()), default=0.0)

    def lease(self, keys: Iterable[Key], seconds: float) -> None:
        """Keep `keys` for so long, or until each has been released as often as it was leased."""
        now = time.monotonic()
        if now - self._swept > 1.0:
            self._sweep(now)
        for key in keys:
            count, until = self._leases.get(key, (0, 0.0))
            self._leases[key] = (count + 1 if until > now else 1, max(until, now + seconds))

    def release(self, key: Key) -> None:
        """End one lease of `key`, if there is one."""
        count, until = self._leases.get(key, (0, 0.0))
        if count > 1:
            self._leases[key] = (count - 1, until)
        else:
            self._leases.pop(key, None)

    def _sweep(self, now: float) -> None:
        self._swept = now
        self._leases = {key: lease for key, lease in self._leases.items() if lease[1] > now}

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
    """The store's parts: catalogue and records behind their link, objects, RAM tier, index, pins, policy, ghosts."""

    link: RedisLink
    catalogue: Catalogue
    generations: Generations
    deposits: Deposits
    objects: Objects
    ram: RamTier
    index: PartitionedIndex = field(default_factory=PartitionedIndex)
    thread: IndexThread = field(default_factory=IndexThread)
    pins: Pins = field(default_factory=Pins)
    ghosts: Ghosts = field(default_factory=lambda: Ghosts(0.9))
    ranking: Ranking = field(default_factory=lambda: Ranking("lru", 0))

    def redis(self, seconds: float = BACKGROUND_SECONDS) -> AbstractAsyncContextManager[None]:
        """Guard calls to the catalogue, bounded by `seconds`."""
        return self.link.guard(asyncio.get_running_loop().time() + seconds)

    def files(self, seconds: float = BACKGROUND_SECONDS, *, writes: bool = True) -> AbstractAsyncContextManager[None]:
        """Guard calls to the object store, bounded by `seconds`."""
        return self.objects.guard(asyncio.get_running_loop().time() + seconds, writes=writes)
