"""The contract of an eviction policy: a replica of what is stored, which says who goes next."""

from abc import ABC, abstractmethod
from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar, Literal

Key = tuple[int, int]
"""A stored state: (entry id, name of its noise level)."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a policy may know of a stored state.

    Attributes:
        skip: share of the steps that a resume from it saves, in (0, 1).
        saved_seconds: the device seconds that is.
        nbytes: its size in the object store.
        page: identity of the need it answers. It outlasts eviction: an entry that answers what an evicted one
            would have answered bears its page; any other bears its own entry id.
    """

    skip: float
    saved_seconds: float
    nbytes: int
    page: int


class EvictionPolicy(ABC):
    """Holds the keys of all stored states and names the one to evict next.

    A policy is told of everything that happens, in the order of the catalogue's events, and never touches the
    store itself: live store and simulator use the same objects. It does no I/O, knows no clock and draws no
    randomness that is not seeded, so equal histories give equal victims.

    Whoever evicts calls `victim`, drops that state, and calls `remove`, until the store is within its budget.
    """

    name: ClassVar[str]
    replay: ClassVar[Literal["use", "age"]] = "use"
    """In which order a restart adds what is stored: by last use, or by age, the first to go first."""

    def __init__(self, budget: int) -> None:
        """Serve a store that may hold `budget` bytes of states."""
        if budget < 0:
            raise ValueError(f"budget must not be negative, got {budget}")
        self.budget = budget

    @abstractmethod
    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """Take in a state: just stored, or (at a restart) used `uses` times already. A held key is ignored."""

    @abstractmethod
    def use(self, key: Key) -> None:
        """Count that one request resumed from it; an unknown key is ignored."""

    @abstractmethod
    def remove(self, key: Key) -> None:
        """Let go of a state, whoever dropped it; an unknown key is ignored."""

    @abstractmethod
    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """Return the held state to evict next, never a `spared` one; None when no other is held.

        It stays held until `remove` is called; asked again before anything else happens, the answer is the same.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return how many states are held."""

    @abstractmethod
    def __contains__(self, key: object) -> bool:
        """Return whether the state is held."""
