"""Forgetting: out of every place at once, and within budgets."""

import asyncio

from cache_store.follower import Follower
from cache_store.ghosts import Ghost
from cache_store.parts import Parts
from cache_store.ram import Key
from cache_store.records import parse_embedding

MOST_VICTIMS = 256
"""States evicted in one run: whoever writes waits that long and no longer."""
MOST_PICTURES = 64


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
    """Evicts whom the policy names until states and pictures are within their budgets, a batch at a time."""

    def __init__(
        self, parts: Parts, remover: Remover, follower: Follower, *, state_budget: int, image_budget: int
    ) -> None:
        """Count evictions of states under the policy's name; budgets in bytes."""
        self._parts = parts
        self._remover = remover
        self._follower = follower
        self._state_budget = state_budget
        self._image_budget = image_budget

    async def run(self) -> float | None:
        """Evict towards both budgets; pinned states stay, even if that means staying above.

        Returns:
            In how many seconds to go on: at once if a batch was not enough, once leases have ended if only leased
            states are left to go; None when there is nothing more to do before the next write.
        """
        await self._follower.catch_up_all()
        states, images = await self._excess()
        if states <= 0 and images <= 0:
            return None
        more_states = await self._evict_states(states)
        more_images = await self._evict_images(images)
        states, images = await self._excess()
        if (states > 0 and more_states) or (images > 0 and more_images):
            return 0.0
        wait = self._parts.pins.leased_seconds
        return wait if states > 0 and wait > 0 else None

    async def _excess(self) -> tuple[int, int]:
        """Return the bytes of states and of pictures above their budgets."""
        async with self._parts.redis():
            totals = await self._parts.catalogue.totals()
        return totals.state_bytes - self._state_budget, totals.image_bytes - self._image_budget

    async def _evict_states(self, excess: int) -> bool:
        """Evict a batch, or as much as `excess` bytes; False when nobody is left to go."""
        for _ in range(MOST_VICTIMS):
            if excess <= 0:
                break
            freed = await self._try_evict_state()
            if freed is None:
                return False
            excess -= freed
        return True

    async def _try_evict_state(self) -> int | None:
        """Evict the policy's next victim; return the bytes that frees, or None when there is no victim."""
        ranking = self._parts.ranking
        victim = ranking.policy.victim(self._parts.pins)
        if victim is None:
            return None
        async with self._parts.redis():
            remains = await self._parts.catalogue.remains(*victim)
        if not await self._remover.drop_state(victim, ranking.policy.name, evict=True):
            return 0  # one that is leased elsewhere is pinned now: another is next
        ranking.evicted(victim)
        if remains is None:
            return 0
        partition, raw, item = remains
        vector = parse_embedding(raw)
        if vector is not None:
            self._parts.ghosts.add(partition, vector, Ghost(victim[0], item.page, item.saved_seconds))
        return item.nbytes

    async def _evict_images(self, excess: int) -> bool:
        """Evict up to a batch of pictures; False when there was none."""
        if excess <= 0:
            return True
        async with self._parts.redis():
            worst = await self._parts.catalogue.worst_images(MOST_PICTURES)
        for entry_id in worst:
            if (await self._excess())[1] <= 0:
                break
            await self._remover.drop_image(entry_id, "image_budget")
        return bool(worst)
