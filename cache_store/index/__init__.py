"""Vector indexes: the nearest prompts inside one signature's partition."""

from cache_store.index.base import Shelf, VectorIndex
from cache_store.index.partitioned import Growth, PartitionedIndex
from cache_store.index.reshelving import Reshelver
from cache_store.index.thread import IndexThread, Workshop

__all__ = ["Growth", "IndexThread", "PartitionedIndex", "Reshelver", "Shelf", "VectorIndex", "Workshop"]
