"""The eviction policy's replica, kept in step with the catalogue."""

import asyncio
from collections.abc import Iterable, Sequence

from cache_store.catalogue import Catalogue, Holding
from cache_store.events import Event
from policies.eviction import EvictionPolicy, Key, Parsimonious, make_eviction

_PAGE = 500


class Ranking:
    """Holds the eviction policy and feeds it: from the catalogue at a start, then from the events that follow.

    A use between the two may be counted twice; nothing else can go wrong, as adding and removing are idempotent.
    """

    def __init__(self, name: str, budget: int) -> None:
        """Rank by the policy called `name`, for a store of `budget` bytes; ValueError when there is none."""
        self.policy: EvictionPolicy = make_eviction(name, budget)
        # Evicted here, before the event says so: a crash of Redis may undo it.
        self._unconfirmed: set[Key] = set()

    @property
    def queries(self) -> int:
        """How often the policy has asked its predictor, if it has one."""
        return self.policy.queries if isinstance(self.policy, Parsimonious) else 0

    async def rebuild(self, catalogue: Catalogue, name: str | None = None) -> None:
        """Start anew from what the catalogue holds, with the policy called `name` (None = as now)."""
        fresh = make_eviction(name or self.policy.name, self.policy.budget)
        held = [holding async for page in catalogue.all_states() for holding in page]
        self.policy = await asyncio.to_thread(_fill, fresh, held)

    def evicted(self, key: Key) -> None:
        """Let go of a state that was evicted here; its event comes later, and changes nothing."""
        self.policy.remove(key)
        self._unconfirmed.add(key)

    async def reconcile(self, catalogue: Catalogue) -> None:
        """Take in again what was evicted here and is there all the same, all events having been applied."""
        doubtful = sorted(self._unconfirmed)
        for start in range(0, len(doubtful), _PAGE):
            entries = sorted({entry_id for entry_id, _ in doubtful[start : start + _PAGE]})
            for holding in await catalogue.states_of(entries):
                self.policy.add(holding.key, holding.item, holding.uses)
        self._unconfirmed.clear()

    def apply(self, events: Sequence[Event], added: Iterable[Holding]) -> None:
        """Tell the policy what happened, in order; `added` are the states that the added entries hold now."""
        arrivals: dict[int, list[Holding]] = {}
        for holding in added:
            arrivals.setdefault(holding.key[0], []).append(holding)
        for event in events:
            if event.kind == "add":
                for holding in arrivals.get(event.entry_id, ()):
                    self.policy.add(holding.key, holding.item)
            elif event.level is not None:
                key = (event.entry_id, event.level)
                if event.kind == "touch":
                    self.policy.use(key)
                else:
                    self.policy.remove(key)
                    self._unconfirmed.discard(key)


def _fill(policy: EvictionPolicy, held: list[Holding]) -> EvictionPolicy:
    if policy.replay == "age":
        held.sort(key=lambda holding: (holding.created, holding.key))
    else:
        held.sort(key=lambda holding: (holding.last_used, holding.key))
    for holding in held:
        policy.add(holding.key, holding.item, holding.uses)
    return policy
