"""A memory of evicted entries: which needs come back after their states have gone?"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from cache_store.types import Float32Array

_MOST = 4096


@dataclass(frozen=True, slots=True)
class Ghost:
    """What is remembered of an entry that lost its last state.

    Attributes:
        entry_id: which entry it was.
        page: the need it answered.
        saved_seconds: device seconds that its best state would have saved.
    """

    entry_id: int
    page: int
    saved_seconds: float


class Ghosts:
    """Embeddings of entries evicted lately, at most `most` in all, the oldest dropped first.

    A lookup compares with all ghosts of the partition, on no request's path. Embeddings stay in this process's memory
    only; any deletion on purpose empties it.
    """

    def __init__(self, floor: float, most: int = _MOST) -> None:
        """Find ghosts of at least the similarity `floor`."""
        self._floor = floor
        self._most = most
        self._ghosts: OrderedDict[int, tuple[str, Ghost, Float32Array]] = OrderedDict()
        self._members: dict[str, dict[int, None]] = {}
        self.regret_requests = 0
        self.regret_seconds = 0.0

    def add(self, partition: str, vector: Float32Array, ghost: Ghost) -> None:
        """Remember an evicted entry; again, if more was evicted of it, for the best it ever lost."""
        known = self._ghosts.get(ghost.entry_id)
        if known and known[1].saved_seconds > ghost.saved_seconds:
            ghost = known[1]
        self._ghosts[ghost.entry_id] = (partition, ghost, vector)
        self._ghosts.move_to_end(ghost.entry_id)
        self._members.setdefault(partition, {})[ghost.entry_id] = None
        if len(self._ghosts) > self._most:
            self.forget(next(iter(self._ghosts)))

    def forget(self, entry_id: int) -> None:
        """Forget one, if it is there."""
        found = self._ghosts.pop(entry_id, None)
        if found:
            members = self._members[found[0]]
            del members[entry_id]
            if not members:
                del self._members[found[0]]

    def clear(self) -> None:
        """Forget all."""
        self._ghosts.clear()
        self._members.clear()

    def nearest(self, partition: str, vector: Float32Array) -> Ghost | None:
        """Return the ghost most similar to `vector` in its partition, or None when none reaches the floor."""
        # Copied first: this runs beside the event loop.
        members = [self._ghosts.get(entry_id) for entry_id in list(self._members.get(partition, ()))]
        fitting = [(row[1], row[2]) for row in members if row and row[2].shape == vector.shape]
        if not fitting:
            return None
        similarity = np.stack([other for _, other in fitting]) @ vector
        best = int(np.argmax(similarity))
        return fitting[best][0] if similarity[best] >= self._floor else None

    def answered(self, ghost: Ghost, reused_seconds: float) -> None:
        """Count a run that the evicted entry would have served, and forget the ghost: its need has an entry again.

        An upper bound: a matching policy might have allowed less than the ghost's deepest state.

        Args:
            ghost: who would have served it.
            reused_seconds: device seconds that the run saved all the same.
        """
        self.forget(ghost.entry_id)
        missed = ghost.saved_seconds - reused_seconds
        if missed > 0:
            self.regret_requests += 1
            self.regret_seconds += missed

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._ghosts)
