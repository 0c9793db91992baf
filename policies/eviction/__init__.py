"""What to forget first, decided per noise state."""

from collections.abc import Mapping
from types import MappingProxyType

from policies.eviction.base import EvictionPolicy, StateStats
from policies.eviction.fifo import FIFO
from policies.eviction.lcbfu import LCBFU
from policies.eviction.lfu import LFU
from policies.eviction.lru import LRU

POLICIES: Mapping[str, type[EvictionPolicy]] = MappingProxyType(
    {policy.name: policy for policy in (LCBFU, LRU, FIFO, LFU)}
)
"""Every eviction policy by the name it has in the settings."""


def make_eviction(name: str) -> EvictionPolicy:
    """Return the eviction policy called `name`.

    Raises:
        ValueError: no policy has that name; the message lists those that exist.
    """
    try:
        return POLICIES[name]()
    except KeyError:
        raise ValueError(f"unknown eviction policy {name!r}; known: {', '.join(sorted(POLICIES))}") from None


__all__ = ["FIFO", "LCBFU", "LFU", "LRU", "POLICIES", "EvictionPolicy", "StateStats", "make_eviction"]
