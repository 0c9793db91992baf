"""What the store needs to be told; the service's settings fill it in."""

from dataclasses import dataclass, field
from pathlib import Path

import faiss

from cache_store.codec import CODECS, Codec
from cache_store.scripts import MOST_LEASE_SECONDS
from cache_store.sharing import SharingRules


class StoreConfigError(Exception):
    """The store cannot be opened with this configuration; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Configuration of a `CacheStore`.

    Attributes:
        data_dir: folder for the private Redis (socket, append-only file) and, by default, the states.
        redis_url: a shared Redis; None starts a private redis-server in `data_dir`.
        object_url: where states and pictures live, any URL obstore takes; None = `data_dir`/objects.
            Services that share a Redis must share this too.
        byte_budget: most bytes of states kept in the object store.
        ram_bytes: byte bound of the RAM tier in front of it; 0 switches it off.
        eviction: name of an eviction policy, see `policies.eviction.POLICIES`.
        queue_size: writes that may wait behind answers; further ones are dropped and counted.
        timeout_seconds: bound on any one store operation on a request's path.
        image_budget: most bytes of final pictures kept, evicted least recently used first.
        ttl_seconds: an entry older than this is never returned and soon forgotten; 0 = it lives until evicted.
            Services that share a Redis each hold to their own; the shortest decides what is forgotten.
        lease_seconds: how long what a search returned is kept from eviction, unless it is loaded sooner; 0 = not.
        codec: how new states are written, see `cache_store.codec`; states of any codec are read.
        index_device: where large partitions of the index are trained, "cpu" or "gpu"; searches run on the CPU.
        ghost_similarity: similarity from which an evicted entry counts as one that would have answered (regret).
        generation_seconds: how long records of generations are kept, see `cache_store.generations`; never longer than
            `ttl_seconds`, if that bounds entries.
        generations: most of these records kept; 0 = none.
        sharing: what tenants get to see of one another's public entries.
        encryption_key_file: file of the key that states and pictures are encrypted with, see `cache_store.sealing`;
            None = they are not.
        result_seconds: how long deposits are kept, see `cache_store.deposits`; never longer than `ttl_seconds`, if
            that bounds entries.
        results: most deposits of one kind a tenant has.
        result_bytes: most bytes of all deposits.
    """

    data_dir: Path
    redis_url: str | None = None
    object_url: str | None = None
    byte_budget: int = 2 * 1024**3
    ram_bytes: int = 128 * 1024**2
    eviction: str = "lhd"
    queue_size: int = 256
    timeout_seconds: float = 0.5
    image_budget: int = 1024**3
    ttl_seconds: float = 0.0
    lease_seconds: float = 2.0
    codec: Codec = "fp16"
    index_device: str = "cpu"
    ghost_similarity: float = 0.9
    generation_seconds: float = 7 * 86_400.0
    generations: int = 10_000
    sharing: SharingRules = field(default_factory=SharingRules)
    encryption_key_file: Path | None = None
    result_seconds: float = 86_400.0
    results: int = 1000
    result_bytes: int = 1024**3

    @property
    def record_seconds(self) -> float:
        """How long records of generations are kept: what must be gone with its entry must not live on in a record."""
        return min(self.generation_seconds, self.ttl_seconds or self.generation_seconds)

    @property
    def result_lifetime(self) -> float:
        """How long deposits are kept."""
        return min(self.result_seconds, self.ttl_seconds or self.result_seconds)

    def check(self) -> None:
        """Raise StoreConfigError for a value out of range."""
        for name in ("byte_budget", "ram_bytes", "image_budget", "generations", "result_bytes"):
            if getattr(self, name) < 0:
                raise StoreConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.ttl_seconds < float("inf"):
            raise StoreConfigError(f"ttl_seconds must be finite and not negative, got {self.ttl_seconds}")
        if not 0 <= self.generation_seconds < float("inf"):
            raise StoreConfigError(
                f"generation_seconds must be finite and not negative, got {self.generation_seconds}"
            )
        if not 0 < self.result_seconds < float("inf"):
            raise StoreConfigError(f"result_seconds must be finite and positive, got {self.result_seconds}")
        if self.results < 1:
            raise StoreConfigError(f"results must be at least 1, got {self.results}")
        if not 0 <= self.lease_seconds <= MOST_LEASE_SECONDS:
            raise StoreConfigError(f"lease_seconds must lie in 0..{MOST_LEASE_SECONDS}, got {self.lease_seconds}")
        if self.codec not in CODECS:
            raise StoreConfigError(f"codec must be one of {', '.join(CODECS)}, got {self.codec!r}")
        if self.queue_size < 1:
            raise StoreConfigError(f"queue_size must be at least 1, got {self.queue_size}")
        if self.index_device not in ("cpu", "gpu"):
            raise StoreConfigError(f"index_device must be cpu or gpu, got {self.index_device}")
        if self.index_device == "gpu" and faiss.get_num_gpus() == 0:
            raise StoreConfigError("index_device is gpu, but FAISS sees no GPU: install faiss-gpu, or choose cpu")
        if not 0 < self.timeout_seconds < float("inf"):
            raise StoreConfigError(f"timeout_seconds must be positive and finite, got {self.timeout_seconds}")
        if not 0 < self.ghost_similarity <= 1:
            raise StoreConfigError(f"ghost_similarity must be in (0, 1], got {self.ghost_similarity}")
        if (wrong := self.sharing.complaint()) is not None:
            raise StoreConfigError(wrong)
