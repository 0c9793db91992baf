"""The contract of an eviction policy: scores of single noise states."""

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StateStats:
    """What an eviction policy may know of one stored state.

    Attributes:
        uses: how many requests resumed from it.
        skip: share of the steps a resume from it saves, in (0, 1).
        nbytes: its size in the object store.
        created: logical time it was stored (a counter of store operations).
        last_used: logical time of its last use, or `created`.
        now: the current logical time.
    """

    uses: int
    skip: float
    nbytes: int
    created: int
    last_used: int
    now: int


class EvictionPolicy(ABC):
    """Ranks stored states; the store evicts the smallest score first until it is within its byte budget.

    The score is recomputed for a state when it is stored and when it is used, and kept in a sorted set;
    so it may depend on that state's own statistics only, never on other states'. Ties are broken by
    age, oldest first. Pure: equal statistics give equal scores.
    """

    name: str

    @abstractmethod
    def score(self, stats: StateStats) -> float:
        """Return a finite score; smaller is evicted earlier."""
