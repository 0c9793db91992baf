"""The replay: one pass over a workload against a cache of a given size under a given policy.

A request sees what all earlier ones left; that generations overlap in time, and that the store is written behind the
answer, is not simulated. States are kept per text: while a text has a state, no second one of that level comes about,
because the deepest state of the nearest texts is always taken and only deeper ones are computed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from loadtest.simulator.matching import Masks
from loadtest.simulator.neighbours import Neighbours
from loadtest.simulator.setup import Setup
from loadtest.simulator.workload import Ints, Workload
from policies.eviction import EvictionPolicy, Item, Key

MISS, EXACT = -1, -2
UNBOUNDED = 2**62


@runtime_checkable
class Foresight(Protocol):
    """A policy that knows the log, and has to be told where in it the replay is."""

    def advance(self, now: int) -> None:
        """Say which request is being served."""


@dataclass(frozen=True)
class Ground:
    """A workload under one set-up: what every replay of it shares.

    Attributes:
        workload: the requests.
        setup: the rules.
        near: which texts lie near which.
        masks: for each pair of `near` the levels that may be resumed from.
        pages: for each request the need it expresses (see `pages.py`).
        step_seconds: device seconds of one request's step.
        steps: N.
    """

    workload: Workload
    setup: Setup
    near: Neighbours
    masks: Masks
    pages: Ints
    step_seconds: float = 1.0
    steps: int = 50

    @cached_property
    def exact_repeats(self) -> NDArray[np.bool_]:
        """Requests whose text and seed were both asked for before."""
        seeds = self.workload.seeds
        found = np.zeros(len(self.workload), bool)
        if seeds is None or not self.setup.honour_seeds:
            return found
        seen: set[tuple[int, int]] = set()
        for request, pair in enumerate(zip(self.workload.texts.tolist(), seeds.tolist(), strict=True)):
            found[request] = pair[1] >= 0 and pair in seen
            seen.add(pair)
        return found


@dataclass(frozen=True)
class Replay:
    """What one pass came to.

    Attributes:
        levels: for each request the level it resumed at, `MISS` or `EXACT`.
        servers: for each request the text whose state it resumed from, -1 = none.
        skips: share of the steps that each level saves.
        budget: bytes the cache could hold.
        peak_bytes: bytes it held at most.
        final_bytes: bytes at the end.
        writes: objects stored.
        evictions: objects evicted.
        seconds: how long the pass took.
    """

    levels: NDArray[np.int8]
    servers: Ints
    skips: tuple[float, ...]
    budget: int
    peak_bytes: int
    final_bytes: int
    writes: int
    evictions: int
    seconds: float

    @cached_property
    def saved(self) -> NDArray[np.float32]:
        """For each request the share of its steps that was saved."""
        worth = np.asarray([*self.skips, 1.0, 0.0], np.float32)  # EXACT and MISS index from the end
        return worth[self.levels]


@dataclass
class _Cache:
    """What is stored now, and the policy that says who goes."""

    policy: EvictionPolicy
    budget: int
    nbytes: int
    held: bytearray
    owner: dict[int, Key]
    texts: list[int]
    whole: int
    used: int = 0
    peak: int = 0
    writes: int = 0
    evictions: int = 0
    depths: dict[int, int] = field(default_factory=dict)

    def make_room(self, objects: int) -> None:
        """Evict until so many new objects fit."""
        room = self.budget - objects * self.nbytes
        while self.used > room:
            key = self.policy.victim()
            if key is None:
                return
            self.drop(key)
            self.evictions += 1

    def drop(self, key: Key) -> None:
        """Let go of one object."""
        self.policy.remove(key)
        self.used -= self.nbytes
        entry, level = key
        text = self.texts[entry]
        left = self.held[text] & ~(self.whole or 1 << level)
        self.held[text] = left
        del self.owner[text << 3 | level]
        if not left:
            self.depths.pop(entry, None)

    def store(self, entry: int, levels: Sequence[int], items: Sequence[Item], depth: int) -> None:
        """Take in objects of one run, as far as they fit at all."""
        self.make_room(len(levels))
        text = self.texts[entry]
        if depth:
            self.depths[entry] = depth
        for level in levels:
            if self.used + self.nbytes > self.budget:
                return
            if text << 3 | level in self.owner:
                self.drop(self.owner[text << 3 | level])  # a newer picture of the same text replaces it
            self.policy.add((entry, level), items[level])
            self.owner[text << 3 | level] = (entry, level)
            self.held[text] |= self.whole or 1 << level
            self.used += self.nbytes
            self.writes += 1
        self.peak = max(self.peak, self.used)


def replay(ground: Ground, policy: EvictionPolicy, budget: int = UNBOUNDED, *, quiet: bool = True) -> Replay:
    """Replay the whole workload.

    Args:
        ground: workload and rules.
        policy: new, made for `budget`.
        budget: bytes the cache may hold.
        quiet: show no progress bar.
    """
    return _Pass(ground, policy, budget).run(quiet)


class _Pass:
    def __init__(self, ground: Ground, policy: EvictionPolicy, budget: int) -> None:
        setup, states = ground.setup, ground.setup.states
        self._ground = ground
        self._final = states.form == "final"
        count = len(states.skips)
        whole = (1 << count) - 1 if self._final else 0
        held = bytearray(len(ground.workload.vectors))
        self._texts: list[int] = ground.workload.texts.tolist()
        self._starts: list[int] = ground.near.starts.tolist()
        self._cache = _Cache(policy, budget, states.nbytes, held, {}, self._texts, whole)
        self._judge = 0 if self._final else setup.matching.judge_bit(states.skips)
        objects = 1 if self._final else count
        # Which levels a run leaves that resumed at a level (or, last, at none).
        self._later = [tuple(range(level + 1, objects)) for level in range(count)]
        if setup.admission == "everything":
            self._later = [(0,)] * count
        elif setup.admission == "miss-only" or self._final:
            self._later = [()] * count
        self._all = tuple(range(objects))
        seconds = ground.steps * ground.step_seconds
        self._worth = [(skip, skip * seconds, states.nbytes) for skip in states.skips]
        if self._final:
            self._worth = [max(self._worth)]
        self._top = 1 << (count - 1)

    def run(self, quiet: bool) -> Replay:
        """Go through all requests."""
        ground, cache = self._ground, self._cache
        texts, count = self._texts, len(self._texts)
        levels, servers = np.full(count, MISS, np.int8), np.full(count, -1, np.int32)
        pages = ground.pages.tolist()
        seeded = self._seeded(levels)
        advance = cache.policy.advance if isinstance(cache.policy, Foresight) else None
        started = time.perf_counter()
        for request in tqdm(
            range(count), desc=f"replay {cache.policy.name}", unit="req", disable=quiet, miniters=4096
        ):
            text = texts[request]
            if advance is not None:
                advance(request)
            if seeded is not None and seeded[request]:
                if levels[request] == MISS:
                    self._admit(request, pages[request], self._all, 0)
                continue
            level, server = self._find(text)
            if level == MISS:
                self._admit(request, pages[request], self._all, 0)
                continue
            levels[request], servers[request] = level, server
            self._resumed(request, pages[request], level, server)
        seconds = time.perf_counter() - started
        sizes = (cache.budget, cache.peak, cache.used, cache.writes, cache.evictions)
        return Replay(levels, servers, ground.setup.states.skips, *sizes, seconds)

    def _seeded(self, levels: NDArray[np.int8]) -> list[bool] | None:
        """Mark exact repeats; return which requests look for nothing else, if any."""
        seeds = self._ground.workload.seeds
        if seeds is None or not self._ground.setup.honour_seeds:
            return None
        levels[self._ground.exact_repeats] = EXACT
        found: list[bool] = (seeds >= 0).tolist()
        return found

    def _find(self, text: int) -> tuple[int, int]:
        """The deepest level that one of the nearest texts with anything stored offers, and that text."""
        ground, held = self._ground, self._cache.held
        start, end = self._starts[text], self._starts[text + 1]
        left = self._ground.setup.candidates
        best, server = 0, -1
        judge, top = self._judge, self._top
        for other, mask in zip(ground.near.texts[start:end].tolist(), ground.masks[start:end].tolist(), strict=True):
            stored = held[other]
            if not stored:
                continue
            usable = stored & mask
            if usable > best and (other == text or not judge or stored & judge):
                deepest = usable.bit_length()
                if deepest > best.bit_length():
                    best, server = usable, other
                    if usable >= top:
                        break
            left -= 1
            if not left:
                break
        return best.bit_length() - 1, server

    def _resumed(self, request: int, page: int, level: int, server: int) -> None:
        """Count the use, and store what the run goes on to compute."""
        cache = self._cache
        key = cache.owner[server << 3 | (0 if self._final else level)]
        cache.policy.use(key)
        text = self._texts[request]
        if self._judge and server != text and self._judge != 1 << level:
            # The judging state was read as well: a policy that does not hear of it would evict it first.
            cache.policy.use(cache.owner[server << 3 | self._judge.bit_length() - 1])
        later = self._later[level]
        setup = self._ground.setup
        if not later or (setup.admission == "no-repeats" and server == text):
            return
        depth = cache.depths.get(key[0], 0) + 1
        if depth <= setup.max_depth:
            self._admit(request, page, later, depth)

    def _admit(self, request: int, page: int, levels: tuple[int, ...], depth: int) -> None:
        if levels:
            items = [Item(*worth, page) for worth in self._worth]
            self._cache.store(request, levels, items, depth)
