"""Remembered generations: the Redis catalogue, the state store and the vector index."""

from cache_store.config import StoreConfig, StoreConfigError
from cache_store.selection import Selection, user_digest
from cache_store.store import CacheStore
from cache_store.types import (
    CacheEntry,
    CacheUnavailable,
    EntrySummary,
    ExactHit,
    NoiseState,
    Signature,
    StoredImage,
    StoreStats,
)
from policies.matching.base import Candidate, StateRef

__all__ = [
    "CacheEntry",
    "CacheStore",
    "CacheUnavailable",
    "Candidate",
    "EntrySummary",
    "ExactHit",
    "NoiseState",
    "Selection",
    "Signature",
    "StateRef",
    "StoreConfig",
    "StoreConfigError",
    "StoreStats",
    "StoredImage",
    "user_digest",
]
