"""A Belady-like policy that knows the future: what an eviction policy could come to, for comparison only.

The future is that of a cache without bound under the same rules: there, each request is served by its best state. A
state of text u at a level plays a *role*: its own if the unbounded cache stored it too, else that of the state which
served u there, because that is what it stands in for once the other was evicted. It is worth keeping for the uses of
its role that are still to come.

With values that differ and rules of admission that react, farthest-next-use is no longer optimal, and finding the
optimum is intractable. Two rules are offered; the better of both on a log is called the oracle. It bounds the optimum
from below; `study.ceiling` bounds it from above.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from loadtest.simulator.replay import MISS, Ground, Replay
from policies.eviction import EvictionPolicy, Item, Key

Rule = Literal["farthest", "density"]
_NEVER = 2**40


@dataclass(frozen=True)
class Future:
    """What is still to come.

    Attributes:
        texts: for each request (which is also the id of its entry) its text.
        roles: the role of each text at each level.
        uses: the requests that use each role, in order.
    """

    texts: Sequence[int]
    roles: Sequence[Sequence[Key]]
    uses: Mapping[Key, Sequence[int]]

    def next_use(self, key: Key, now: int) -> int:
        """The first request after `now` that uses the state's role."""
        entry, level = key
        times = self.uses.get(self.roles[self.texts[entry]][level], ())
        place = bisect_right(times, now)
        return times[place] if place < len(times) else _NEVER


def future_of(ground: Ground, free: Replay) -> Future:
    """Read the future off a replay without bound."""
    final = ground.setup.states.form == "final"
    objects = 1 if final else len(free.skips)
    partial = ground.setup.admission in ("partial", "no-repeats") and not final
    judge = -1 if final else ground.setup.matching.judge_bit(free.skips).bit_length() - 1
    texts = ground.workload.texts.tolist()
    roles: dict[int, list[Key]] = {}
    uses: dict[Key, list[int]] = defaultdict(list)
    served = zip(texts, free.levels.tolist(), free.servers.tolist(), strict=True)
    for request, (text, level, server) in enumerate(served):
        if level >= 0:
            read = {0 if final else level} | ({judge} if judge >= 0 and server != text else set())
            for place in read:  # the judging state is read as well
                uses[roles[server][place]].append(request)
        if text in roles:
            continue
        own: list[Key] = [(text, place) for place in range(objects)]
        if level == MISS or server < 0 or ground.setup.admission == "everything":
            roles[text] = own
        else:
            stored = level + 1 if partial else objects
            roles[text] = roles[server][:stored] + own[stored:]
    return Future(texts, [roles[text] for text in range(len(roles))], uses)


class Oracle(EvictionPolicy):
    """Evicts the state whose role is used latest ("farthest"), or is worth least per time waited ("density")."""

    name: ClassVar[str] = "oracle"

    def __init__(self, budget: int, future: Future, rule: Rule) -> None:
        """Know `future`."""
        super().__init__(budget)
        self._future = future
        self._rule = rule
        self._now = -1
        self._slots: dict[Key, int] = {}
        self._keys: list[Key | None] = []
        self._free: list[int] = []
        self._next = np.zeros(0, np.int64)
        self._worth = np.zeros(0)

    def advance(self, now: int) -> None:
        """Say which request is being served."""
        self._now = now

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        if key in self._slots:
            return
        if not self._free:
            self._grow()
        slot = self._slots[key] = self._free.pop()
        self._keys[slot] = key
        self._next[slot] = self._future.next_use(key, self._now)
        self._worth[slot] = item.saved_seconds

    def _grow(self) -> None:
        more = max(64, len(self._keys))
        self._free += range(len(self._keys) + more - 1, len(self._keys) - 1, -1)
        self._keys += [None] * more
        # A free slot looks like the most precious state, so that it is never chosen.
        self._next = np.concatenate([self._next, np.full(more, self._now + 1, np.int64)])
        self._worth = np.concatenate([self._worth, np.full(more, np.inf)])

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`; it was known beforehand."""

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._keys[slot] = None
            self._worth[slot] = np.inf
            self._free.append(slot)

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        self._catch_up()
        # Free slots have a use long past or just ahead; infinite worth keeps them out of both rules.
        wait = self._next - self._now
        score = self._worth / wait if self._rule == "density" else 1.0 / wait + 1e-12 * self._worth
        first = self._keys[int(np.argmin(score))] if self._slots else None
        if first is None or first not in spared:
            return first
        order = (self._keys[slot] for slot in np.argsort(score, kind="stable"))
        return next((key for key in order if key is not None and key not in spared), None)

    def _catch_up(self) -> None:
        for slot in np.flatnonzero(self._next <= self._now):
            key = self._keys[slot]
            self._next[slot] = _NEVER if key is None else self._future.next_use(key, self._now)

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._slots)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._slots
