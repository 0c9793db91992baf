"""What to forget first, decided per noise state."""

from collections.abc import Mapping
from types import MappingProxyType

from policies.eviction.base import EvictionPolicy, Item, Key
from policies.eviction.gdsf import GDSF
from policies.eviction.lcbfu import LCBFU
from policies.eviction.lfu import LFU
from policies.eviction.lhd import LHD
from policies.eviction.parsimonious import Parsimonious
from policies.eviction.queue import FIFO, LRU
from policies.eviction.s3fifo import S3FIFO
from policies.eviction.sieve import Sieve

POLICIES: Mapping[str, type[EvictionPolicy]] = MappingProxyType(
    {policy.name: policy for policy in (LCBFU, LRU, LFU, FIFO, S3FIFO, Sieve, GDSF, LHD, Parsimonious)}
)
"""Every eviction policy by the name it has in the settings."""


def make_eviction(name: str, budget: int) -> EvictionPolicy:
    """Return the eviction policy called `name`, for a store that may hold `budget` bytes of states.

    Raises:
        ValueError: no policy has that name; the message lists those that exist.
    """
    try:
        return POLICIES[name](budget)
    except KeyError:
        raise ValueError(f"unknown eviction policy {name!r}; known: {', '.join(sorted(POLICIES))}") from None


__all__ = [
    "FIFO",
    "GDSF",
    "LCBFU",
    "LFU",
    "LHD",
    "LRU",
    "POLICIES",
    "S3FIFO",
    "EvictionPolicy",
    "Item",
    "Key",
    "Parsimonious",
    "Sieve",
    "make_eviction",
]
