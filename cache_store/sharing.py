"""What tenants share with one another: who may add to the public partitions, and what of them others get to see."""

from dataclasses import dataclass

from cache_store.catalogue import PREFIX
from cache_store.link import RedisLink

FREE_ENTRIES = 32
"""Public entries of one partition that a tenant may have whatever its share, so that somebody can begin."""


@dataclass(frozen=True, slots=True)
class SharingRules:
    """When an entry becomes visible to tenants other than its author's, and how much of the whole one may be.

    Age alone hides nothing from who can wait. So others must have asked for the text as well (k-anonymity over
    tenants): a text that only its author knows never shows, which takes from a covert channel its rare words, from a
    thief of prompts what is worth stealing, and from a poisoner every text that nobody else asks for. See "Attacks on
    Approximate Caches in Text-to-Image Diffusion Models" (arXiv 2508.20424).

    Attributes:
        quarantine_seconds: age from which others may see an entry.
        witnesses: how many tenants, neither its author nor the reader, must hold a public entry of the same text and
            partition.
        author_share: most of a public partition that one tenant may have written.
    """

    quarantine_seconds: float = 3600.0
    witnesses: int = 1
    author_share: float = 0.5

    def complaint(self) -> str | None:
        """Return what is out of range, None when nothing is."""
        if not 0 <= self.quarantine_seconds < float("inf"):
            return f"quarantine_seconds must be finite and not negative, got {self.quarantine_seconds}"
        if self.witnesses < 0:
            return f"witnesses must not be negative, got {self.witnesses}"
        if not 0 < self.author_share <= 1:
            return f"author_share must be in (0, 1], got {self.author_share}"
        return None


async def may_publish(link: RedisLink, rules: SharingRules, partition: str, tenant: str) -> bool:
    """Return whether `tenant` may add to a public partition; call inside the link's guard.

    Several services that add at the same moment may go over the share by one entry each.
    """
    own, everybody = await link.batch(
        [("HGET", f"{PREFIX}authors:{partition}", tenant), ("SCARD", f"{PREFIX}partition:{partition}")]
    )
    wanted = int(own or 0) + 1
    return wanted <= max(FREE_ENTRIES, rules.author_share * (int(everybody) + 1))
