"""Which entries to forget."""

import hashlib
import json
import re
from dataclasses import dataclass

from cache_store.types import CacheEntry

_DIGEST = re.compile(r"[0-9a-f]{64}")


def user_digest(tenant: str, user: str | None) -> str:
    """Return what is stored in place of a user's name: SHA-256 over tenant and name; nothing for no name."""
    if not user:
        return ""
    return hashlib.sha256(json.dumps([tenant, user]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries that meet every criterion given.

    Attributes:
        tenant: whose entries; None only together with `everybody`.
        user: `user_digest` of the user they were drawn for, None = any.
        entry_ids: these alone, None = any.
        created_before: stored earlier than this, in Unix seconds of the Redis host.
        created_after: stored at this time or later.
        everybody: the operator's "of all tenants".
    """

    tenant: str | None = None
    user: str | None = None
    entry_ids: tuple[int, ...] | None = None
    created_before: float | None = None
    created_after: float | None = None
    everybody: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a selection that could mean more than was meant."""
        if (self.tenant is None) != self.everybody:
            raise ValueError("name a tenant, or everybody")
        if self.user is not None and not _DIGEST.fullmatch(self.user):
            raise ValueError("user must be a digest, see user_digest")

    @property
    def dated(self) -> bool:
        """Whether the time of storing plays a part."""
        return self.created_before is not None or self.created_after is not None

    def matches(self, tenant: str, user: str, created: float) -> bool:
        """Return whether an entry among `entry_ids` is meant."""
        return (
            (self.everybody or tenant == self.tenant)
            and (self.user is None or user == self.user)
            and (self.created_before is None or created < self.created_before)
            and (self.created_after is None or created >= self.created_after)
        )

    def matches_queued(self, entry: CacheEntry, now: float) -> bool:
        """Return whether an entry that waits to be written, and so has no time of storing yet, is meant."""
        if self.entry_ids is not None and entry.entry_id not in self.entry_ids:
            return False
        # Drawn then, stored now: either falling into the range is enough to keep it from being written.
        return any(self.matches(entry.signature.tenant, entry.user, created) for created in (entry.created, now))
