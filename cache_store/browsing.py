"""A tenant's entries, page by page, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass

from cache_store.catalogue import PREFIX, Catalogue
from cache_store.link import RedisLink
from cache_store.types import EntrySummary

_BATCH = 200
MOST_LOOKED_AT = 2000
"""Entries looked at for one page, so that a filter that fits nothing does not walk through everything at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """An entry's place in the order: when it was stored, as Redis writes it, and its id."""

    created: str
    entry_id: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are shown: those that meet every criterion given.

    Attributes:
        user: `user_digest` of the user they were drawn for, None = any.
        created_before: stored earlier, in Unix seconds.
        created_after: stored at this time or later.
        text: stands in the prompt, whatever the case; None = any.
    """

    user: str | None = None
    created_before: float | None = None
    created_after: float | None = None
    text: str | None = None


async def page(
    link: RedisLink, catalogue: Catalogue, tenant: str, wanted: Filter, *, after: Place | None, limit: int
) -> tuple[list[EntrySummary], Place | None]:
    """Return up to `limit` of a tenant's entries, and where to go on (None: the end); only inside the guard."""
    found: list[EntrySummary] = []
    place, looked_at = after, 0
    while len(found) < limit and looked_at < MOST_LOOKED_AT:
        batch = await _batch(link, tenant, wanted, place)
        if not batch:
            return found, None
        chosen = await _chosen(link, batch, wanted)
        room = limit - len(found)
        if len(chosen) > room:
            chosen = chosen[:room]
            place = chosen[-1]
        else:
            place = batch[-1]
        looked_at += len(batch)
        found += await catalogue.summaries([int(one.entry_id) for one in chosen])
    return found, place


async def _batch(link: RedisLink, tenant: str, wanted: Filter, after: Place | None) -> list[Place]:
    """Return the places that follow `after` within the filter's times."""
    highest = "+inf" if wanted.created_before is None else f"({wanted.created_before!r}"
    lowest = "-inf" if wanted.created_after is None else repr(wanted.created_after)
    if after is not None:
        highest = after.created
    places: list[Place] = []
    skipped = 0
    while not places:
        bounds = (highest, lowest, "WITHSCORES", "LIMIT", skipped, _BATCH)
        rows = await link.call("ZREVRANGEBYSCORE", f"{PREFIX}tenant:{tenant}", *bounds)
        if not rows:
            return []
        pairs = zip(rows[::2], rows[1::2], strict=True)
        every = [Place(score.decode(), member.decode()) for member, score in pairs if member.isdigit()]
        # Those of the same moment stand in the reverse order of their ids' text.
        places = [one for one in every if after is None or _follows(one, after)]
        skipped += _BATCH
    return places


def _follows(one: Place, after: Place) -> bool:
    return (float(one.created), one.entry_id) < (float(after.created), after.entry_id)


async def _chosen(link: RedisLink, batch: Sequence[Place], wanted: Filter) -> list[Place]:
    if wanted.user is None and wanted.text is None:
        return list(batch)
    rows = await link.batch([("HMGET", f"{PREFIX}entry:{one.entry_id}", "user", "prompt") for one in batch])
    return [one for one, (user, prompt) in zip(batch, rows, strict=True) if _meets(wanted, user, prompt)]


def _meets(wanted: Filter, user: bytes | None, prompt: bytes | None) -> bool:
    if wanted.user is not None and (user or b"").decode() != wanted.user:
        return False
    return wanted.text is None or wanted.text.lower() in (prompt or b"").decode("utf-8", "replace").lower()
