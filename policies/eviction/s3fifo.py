"""S3-FIFO: a small queue on probation, a main queue, and a memory of those who failed it."""

from collections import OrderedDict
from collections.abc import Container
from typing import ClassVar, Literal

from policies.eviction.base import EvictionPolicy, Item, Key

_MOST_USES = 3


class _Fifo:
    """States in order of arrival with [uses, bytes, page], and their bytes in all."""

    def __init__(self) -> None:
        self.rows: OrderedDict[Key, tuple[int, int, int]] = OrderedDict()
        self.nbytes = 0

    def append(self, key: Key, uses: int, nbytes: int, page: int) -> None:
        self.rows[key] = (uses, nbytes, page)
        self.nbytes += nbytes

    def pop(self, key: Key) -> tuple[int, int, int]:
        row = self.rows.pop(key)
        self.nbytes -= row[1]
        return row


class S3FIFO(EvictionPolicy):
    """Evicts newcomers that are not used soon, so that one-time states do not pass through the whole cache.

    Yang et al., "FIFO queues are all you need for cache eviction", SOSP '23. Newcomers wait in a small queue; who
    was used `promote_after` times when its turn comes moves on to the main queue, who was not is evicted and
    remembered as a ghost: when its need (its page, at its noise level) is stored again, it starts in the main
    queue. There, a used state is put back at the end, one use poorer. As in libcachesim, and unlike in the paper, the
    uses that led into the main queue do not count there.
    """

    name: ClassVar[str] = "s3-fifo"
    replay: ClassVar[Literal["use", "age"]] = "age"

    def __init__(
        self, budget: int, *, small_share: float = 0.1, ghost_share: float = 0.9, promote_after: int = 2
    ) -> None:
        """See `EvictionPolicy`.

        Args:
            budget: bytes the store may hold.
            small_share: share of it that newcomers wait in.
            ghost_share: bytes of evicted states remembered (their names only), as a share of it.
            promote_after: uses that lead on to the main queue.
        """
        super().__init__(budget)
        self._small_bytes = int(budget * small_share)
        self._ghost_bytes = int(budget * ghost_share)
        self._promote_after = promote_after
        self._small, self._main, self._ghosts = _Fifo(), _Fifo(), _Fifo()
        self._evicting = False
        self._chosen: Key | None = None

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        if key in self:
            return
        known = self._was_ghost((item.page, key[1]))
        # Until the first eviction, the room of the main queue would otherwise stay empty.
        filling = not self._evicting and self._small.nbytes >= self._small_bytes
        if uses >= self._promote_after:
            self._main.append(key, 0, item.nbytes, item.page)
        else:
            (self._main if known or filling else self._small).append(key, uses, item.nbytes, item.page)

    def _was_ghost(self, need: Key) -> bool:
        """Forget a need that is met again, and those beyond the ghosts' bound; return whether it was known.

        Only here: the states evicted to make room for this one must not push its own ghost out first.
        """
        known = need in self._ghosts.rows
        if known:
            self._ghosts.pop(need)
        while self._ghosts.nbytes > self._ghost_bytes:
            self._ghosts.pop(next(iter(self._ghosts.rows)))
        return known

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        for queue in (self._small, self._main):
            if row := queue.rows.get(key):
                queue.rows[key] = (row[0] + 1, row[1], row[2])

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        if key in self._main.rows:
            self._main.pop(key)
        elif key in self._small.rows:
            _, nbytes, page = self._small.pop(key)
            need = (page, key[1])
            if need not in self._ghosts.rows:
                self._ghosts.append(need, 0, nbytes, page)
        if key == self._chosen:
            self._chosen = None

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        self._evicting = True
        # Looking for it moved others about: asked again, it must still be the one.
        if self._chosen is None or self._chosen in spared:
            self._chosen = self._choose(spared)
        return self._chosen

    def _choose(self, spared: Container[Key]) -> Key | None:
        over = self._main.nbytes > self.budget - self._small_bytes
        if not over and (key := self._from_small(spared)) is not None:
            return key
        found = self._from_main(spared)
        return found if found is not None or not over else self._from_small(spared)

    def _from_small(self, spared: Container[Key]) -> Key | None:
        for _ in range(len(self._small.rows)):
            key, (uses, nbytes, page) = next(iter(self._small.rows.items()))
            if uses >= self._promote_after:
                self._small.pop(key)
                self._main.append(key, 0, nbytes, page)
            elif key not in spared:
                return key
            else:
                self._small.rows.move_to_end(key)
        return None

    def _from_main(self, spared: Container[Key]) -> Key | None:
        for _ in range((_MOST_USES + 2) * len(self._main.rows)):
            key, (uses, nbytes, page) = next(iter(self._main.rows.items()))
            if uses == 0 and key not in spared:
                return key
            self._main.rows[key] = (max(min(uses, _MOST_USES) - 1, 0), nbytes, page)
            self._main.rows.move_to_end(key)
        return None

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._small.rows) + len(self._main.rows)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._small.rows or key in self._main.rows
