"""What the policies with a score share: a heap whose records are brought up to date only when they surface."""

import heapq
from abc import abstractmethod
from collections.abc import Container
from typing import NamedTuple

from policies.eviction.base import EvictionPolicy, Item, Key

_SLACK = 1024


class Rank(NamedTuple):
    """A state's place in the order; the smallest goes first.

    Attributes:
        score: what the policy makes of it.
        tie: decides between equal scores.
        born: number of the `add` that brought it; no two states share one.
        key: the state.
        uses: how many requests resumed from it.
        gain: what one use is worth to the policy.
    """

    score: float
    tie: int
    born: int
    key: Key
    uses: int
    gain: float


class Ranked(EvictionPolicy):
    """Evicts the smallest score first.

    A use may only raise a score. The heap then holds lower bounds, one record per state: using one costs no heap
    operation at all, and finding the victim O(log n), amortised.
    """

    def __init__(self, budget: int) -> None:
        """See `EvictionPolicy`."""
        super().__init__(budget)
        self._held: dict[Key, Rank] = {}
        self._heap: list[Rank] = []
        self._clock = 0

    @abstractmethod
    def _gain(self, item: Item) -> float:
        """Return what one use of `item` is worth."""

    @abstractmethod
    def _score(self, uses: int, gain: float) -> float:
        """Return the score now of a state; never less than it was before the last use."""

    def _tie(self, now: int, born: int) -> int:
        """Return what decides between equal scores: here the last use."""
        return now

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        if key in self._held:
            return
        self._clock += 1
        gain, now = self._gain(item), self._clock
        rank = self._held[key] = Rank(self._score(uses, gain), self._tie(now, now), now, key, uses, gain)
        heapq.heappush(self._heap, rank)

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        old = self._held.get(key)
        if old is None:
            return
        self._clock += 1
        uses = old.uses + 1
        score = self._score(uses, old.gain)
        self._held[key] = Rank(score, self._tie(self._clock, old.born), old.born, key, uses, old.gain)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        if self._held.pop(key, None) and len(self._heap) > 2 * len(self._held) + _SLACK:
            self._heap = list(self._held.values())
            heapq.heapify(self._heap)

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        aside: list[Rank] = []
        found = None
        while (top := self._surface()) is not None:
            if top.key not in spared:
                found = top.key
                break
            aside.append(heapq.heappop(self._heap))
        for rank in aside:
            heapq.heappush(self._heap, rank)
        return found

    def _surface(self) -> Rank | None:
        """Return the smallest rank of all held, cleaning the top of the heap on the way."""
        while self._heap:
            top = self._heap[0]
            now = self._held.get(top.key)
            if now is top:
                return top
            if now is None or now.born != top.born:
                heapq.heappop(self._heap)
            else:
                heapq.heapreplace(self._heap, now)
        return None

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._held)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._held
