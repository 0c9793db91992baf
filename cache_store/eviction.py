"""Forgetting: out of every place at once, and within budgets."""

import asyncio

from cache_store.follower import Follower
from cache_store.ghosts import Ghost
from cache_store.parts import Parts
from cache_store.ram import Key
from cache_store.records import parse_embedding
from policies.eviction import Item

_BATCH = 64


class Remover:
    """Takes states, pictures and entries out of every place they are in: catalogue first, bytes last.

    In that order a crash leaves at worst an object nobody knows, which the next start sweeps away.
    """

    def __init__(self, parts: Parts) -> None:
        """Work on `parts`."""
        self._parts = parts

    async def drop_state(self, key: Key, reason: str, *, evict: bool = False) -> bool:
        """Forget one state; as an eviction only if no service has leased it. Return whether it is gone."""
        parts = self._parts
        async with parts.redis():
            last, leased = await parts.catalogue.drop_state(*key, reason, evict=evict)
        if leased:
            parts.pins.lease([key], leased)
            return False
        parts.ram.discard(key)
        if last:
            await parts.thread.run(parts.index.remove, [key[0]])
        await self._delete(parts.objects.state_path(*key))
        return True

    async def drop_image(self, entry_id: int, reason: str) -> None:
        """Forget one picture."""
        async with self._parts.redis():
            await self._parts.catalogue.drop_image(entry_id, reason)
        await self._delete(self._parts.objects.image_path(entry_id))

    async def clear_entry(self, entry_id: int, reason: str = "cleared") -> bool:
        """Forget an entry and all it has; return whether it was there."""
        parts = self._parts
        async with parts.redis():
            levels = await parts.catalogue.levels(entry_id)
            found = await parts.catalogue.clear_entry(entry_id, reason)
        await parts.thread.run(parts.index.remove, [entry_id])
        for level in levels:
            parts.ram.discard((entry_id, level))
        names = [parts.objects.state_path(entry_id, level) for level in levels]
        async with parts.files(), asyncio.TaskGroup() as group:
            for name in (*names, parts.objects.image_path(entry_id)):
                group.create_task(parts.objects.delete(name))
        return found

    async def _delete(self, path: str) -> None:
        async with self._parts.files():
            await self._parts.objects.delete(path)


class Evictor:
    """Evicts whom the policy names until states and pictures are within their budgets."""

    def __init__(
        self, parts: Parts, remover: Remover, follower: Follower, *, state_budget: int, image_budget: int
    ) -> None:
        """Count evictions of states under the policy's name; budgets in bytes."""
        self._parts = parts
        self._remover = remover
        self._follower = follower
        self._state_budget = state_budget
        self._image_budget = image_budget

    async def run(self) -> None:
        """Evict until within both budgets; pinned states stay, even if that means staying above."""
        await self._follower.catch_up_all()
        while await self._state_bytes() > self._state_budget:
            if not await self._evict_state():
                break
        while await self._image_bytes() > self._image_budget:
            if not await self._evict_images():
                break

    async def _state_bytes(self) -> int:
        async with self._parts.redis():
            return (await self._parts.catalogue.totals()).state_bytes

    async def _image_bytes(self) -> int:
        async with self._parts.redis():
            return (await self._parts.catalogue.totals()).image_bytes

    async def _evict_state(self) -> bool:
        """Evict the policy's next victim; False when there is none."""
        ranking = self._parts.ranking
        victim = ranking.policy.victim(self._parts.pins)
        if victim is None:
            return False
        async with self._parts.redis():
            remains = await self._parts.catalogue.remains(*victim)
        if await self._remover.drop_state(victim, ranking.policy.name, evict=True):
            ranking.evicted(victim)
            self._remember(victim, remains)
        return True  # one that is leased elsewhere is pinned now: another is next

    def _remember(self, key: Key, remains: tuple[str, bytes | None, Item] | None) -> None:
        if remains is None:
            return
        partition, raw, item = remains
        vector = parse_embedding(raw)
        if vector is not None:
            self._parts.ghosts.add(partition, vector, Ghost(key[0], item.page, item.saved_seconds))

    async def _evict_images(self) -> int:
        """Evict up to a batch of pictures; return how many."""
        async with self._parts.redis():
            worst = await self._parts.catalogue.worst_images(_BATCH)
        count = 0
        for entry_id in worst:
            if await self._image_bytes() <= self._image_budget:
                break
            await self._remover.drop_image(entry_id, "image_budget")
            count += 1
        return count
