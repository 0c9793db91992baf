"""LHD: the least hit density goes first, learned as the cache runs."""

import math
import random
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from policies.eviction.base import EvictionPolicy, Item, Key

_AGES = 40
_MOST_USES = 4
_SAMPLE = 64
_LEARN_EVERY = 500
_FADE = 0.98
_PRIOR_EVENTS = 5.0
_FORGOTTEN = 0.5

Counts = NDArray[np.float64]

_MIDDLE: Counts = np.exp2(np.arange(_AGES, dtype=np.float64) + 0.5)
"""Ages are told apart by powers of two; this is where their ranges lie."""


@dataclass(slots=True)
class _State:
    """Last event's time, uses so far, class, and what one use saves per byte."""

    since: int
    uses: int
    kind: tuple[int, int]
    gain: float


class LHD(EvictionPolicy):
    """Keeps what is expected to save most device time per byte and per unit of time that it occupies.

    After Beckmann et al., "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI '18. States are classed by
    noise level and number of uses. For each class it counts at which age (events since stored or last used) states
    are used, and at which they leave; from that follows, for each class and age, the probability of a use over the
    time until the state is used or leaves: its hit density. The victim is the lowest density x saving per byte among
    a sample. Noise levels that nobody resumes from are found out and go at once, which LRU cannot do.

    It starts like LRU (density falls with age) and learns within some thousand events; what it learned fades, and is
    not kept over a restart. The sample is drawn by a seeded generator, so equal histories give equal victims.
    """

    name: ClassVar[str] = "lhd"

    def __init__(self, budget: int) -> None:
        """See `EvictionPolicy`."""
        super().__init__(budget)
        self._random = random.Random(0)
        self._now = 0
        self._keys: list[Key] = []
        self._places: dict[Key, int] = {}
        self._states: dict[Key, _State] = {}
        self._used: dict[tuple[int, int], Counts] = {}
        self._left: dict[tuple[int, int], Counts] = {}
        self._density: dict[tuple[int, int], list[float]] = {}
        self._members: Counter[tuple[int, int]] = Counter()
        self._chosen: Key | None = None

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        if key in self._states:
            return
        self._tick()
        self._places[key] = len(self._keys)
        self._keys.append(key)
        gain = item.saved_seconds / max(item.nbytes, 1)
        self._states[key] = _State(self._now, uses, self._enter(key[1], uses), gain)

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        state = self._states.get(key)
        if state is None:
            return
        self._tick()
        self._used[state.kind][_age(self._now - state.since)] += 1
        state.since = self._now
        state.uses += 1
        self._members[state.kind] -= 1
        state.kind = self._enter(key[1], state.uses)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        state = self._states.pop(key, None)
        if state is None:
            return
        self._chosen = None
        self._left[state.kind][_age(self._now - state.since)] += 1
        self._members[state.kind] -= 1
        place, last = self._places.pop(key), self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._places[last] = place

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        if self._chosen is None or self._chosen in spared:
            count = len(self._keys)
            sample = self._keys
            if count > _SAMPLE:
                draw = self._random.random
                sample = [self._keys[int(draw() * count)] for _ in range(_SAMPLE)]
            self._chosen = self._least(sample, spared)
            if self._chosen is None and count > _SAMPLE:
                self._chosen = self._least(self._keys, spared)
        return self._chosen

    def _least(self, sample: list[Key], spared: Container[Key]) -> Key | None:
        least, found = math.inf, None
        for key in sample:
            state = self._states[key]
            worth = self._density[state.kind][_age(self._now - state.since)] * state.gain
            if worth < least and key not in spared:
                least, found = worth, key
        return found

    def _enter(self, level: int, uses: int) -> tuple[int, int]:
        """Count one state more in the class that it belongs to now."""
        kind = (level, min(uses, _MOST_USES))
        self._members[kind] += 1
        if kind not in self._density:
            self._used[kind], self._left[kind] = np.zeros(_AGES), np.zeros(_AGES)
            self._density[kind] = (1.0 / _MIDDLE).tolist()
        return kind

    def _tick(self) -> None:
        self._now += 1
        self._chosen = None
        if self._now % _LEARN_EVERY == 0:
            self._learn()

    def _learn(self) -> None:
        """Work out every class's density from its counts (a class with few leans on all), and let them fade."""
        used, left = sum(self._used.values()), sum(self._left.values())
        prior = _PRIOR_EVENTS / max(float(np.sum(used) + np.sum(left)), 1e-9)
        for kind in self._density:
            ends = self._used[kind] + used * prior
            every = ends + self._left[kind] + left * prior
            hits, events, ages = (_from_here(part) for part in (ends, every, every * _MIDDLE))
            # A state is on average a little older than where its range begins: 0.85 of the middle.
            waits = np.maximum(ages - 0.85 * events * _MIDDLE, 1e-9)
            self._density[kind] = (hits / waits).tolist()
            self._used[kind] *= _FADE
            self._left[kind] *= _FADE
        self._forget()

    def _forget(self) -> None:
        """Drop the classes that nobody is in and whose counts have faded: there is no end to new noise levels."""
        for kind in list(self._density):
            if not self._members[kind] and self._used[kind].sum() + self._left[kind].sum() < _FORGOTTEN:
                del self._density[kind], self._used[kind], self._left[kind], self._members[kind]

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._states)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._states


def _age(events: int) -> int:
    return min(max(events, 1).bit_length() - 1, _AGES - 1)


def _from_here(part: Counts) -> Counts:
    """At each age the sum over it and all greater ones."""
    return np.asarray(np.cumsum(part[::-1])[::-1])
