"""The catalogue: what is remembered, in Redis. No object is read or written here."""

import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from cache_store import scripts
from cache_store.events import Event, HistoryLost, Mark, parse_event
from cache_store.link import RedisLink
from cache_store.records import (
    SUMMARY_FIELDS,
    StateRecord,
    entry_fields,
    parse_embedding,
    parse_member,
    parse_seconds,
    parse_summary,
    try_number,
)
from cache_store.types import CacheEntry, EntrySummary, Float32Array, StoredImage
from policies.eviction import Item
from policies.matching.base import Candidate, StateRef

log = logging.getLogger(__name__)

PREFIX = "headstart:1:"
"""Of every key; the number is the schema's version."""

# A crashed Redis may have lost the last second of the id counter. Skipping more ids than any second can
# have handed out keeps an id from ever meaning two entries.
_ID_GAP = 1_000_000
_ID_FLOOR = 2**40
_PAGE = 500


class StoreLost(RedisError):
    """The database behind the connection is not the one that was opened."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What the catalogue knows of a stored picture."""

    entry_id: int
    prompt: str
    width: int
    height: int
    sha256: str
    age: float = 0.0
    safety_version: str = ""
    full_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """The catalogue's own counters."""

    entries: int
    states: int
    partitions: int
    state_bytes: int
    image_bytes: int
    evictions: dict[str, int]
    last_event: int


@dataclass(frozen=True, slots=True)
class Holding:
    """A stored state with its counters.

    Attributes:
        key: entry id and level.
        item: what an eviction policy sees of it.
        uses: how many requests resumed from it.
        created: logical time it was stored.
        last_used: logical time of its last use, or `created`.
    """

    key: tuple[int, int]
    item: Item
    uses: int
    created: int
    last_used: int


@dataclass(frozen=True, slots=True)
class Reader:
    """Who looks into a public partition, and what it takes for another tenant's entry to show.

    Attributes:
        tenant: the reader.
        quarantine: age in seconds.
        witnesses: other tenants that hold an entry of the same text there.
    """

    tenant: str
    quarantine: float
    witnesses: int


class Catalogue:
    """Typed access to the keys under `PREFIX`; call only inside the link's guard."""

    def __init__(self, link: RedisLink, *, ttl: float = 0.0, lease: float = 0.0) -> None:
        """Use `link`.

        Args:
            link: the connection.
            ttl: seconds after which an entry is never returned; 0 = none.
            lease: seconds for which other services keep what `candidates` returned from eviction; 0 = not at all.
        """
        self._link = link
        self._ttl = ttl
        self._lease = lease
        self._store_id = ""

    async def open(self) -> str:
        """Return the store's identity, given to it now if it is new, and skip ids that a crash may have lost."""
        # Ids of a new store start anywhere, so that after a lost database no old id comes back with a new
        # meaning. They stay below 2^53, which JSON readers can count to.
        base = _ID_FLOOR + secrets.randbelow(2**52 - _ID_FLOOR)
        found = await self._link.script(scripts.OPEN, PREFIX, secrets.token_hex(8), base, _ID_FLOOR, _ID_GAP)
        self._store_id = str(found.decode())
        return self._store_id

    async def check_identity(self) -> None:
        """Raise StoreLost when this is no longer the database that was opened."""
        found = await self._link.call("GET", PREFIX + "store")
        if found is None or found.decode() != self._store_id:
            raise StoreLost("the catalogue was replaced")

    async def new_id(self) -> int:
        """Return an entry id never handed out before."""
        entry_id = int(await self._link.call("INCR", PREFIX + "next"))
        if entry_id < _ID_FLOOR:
            raise StoreLost("the id counter was lost")
        return entry_id

    async def exists(self, entry_id: int) -> bool:
        """Return whether the entry is remembered."""
        return bool(await self._link.call("EXISTS", f"{PREFIX}entry:{entry_id}"))

    async def tick(self) -> int:
        """Advance the logical clock and return it."""
        return int(await self._link.call("INCR", PREFIX + "clock"))

    async def commit(self, entry: CacheEntry, records: Sequence[StateRecord], image: StoredImage, now: int) -> bool:
        """Make a written entry visible, all at once; False when its id is taken."""
        states: list[str | float | int] = []
        for record in records:
            states += [record.level, record.dump(), now]
        head = (PREFIX, entry.entry_id, entry.signature.digest, entry.signature.tenant, entry.exact_key)
        sizes = (entry.user, now, len(image.data), len(records))
        return bool(await self._link.script(scripts.COMMIT, *head, *sizes, *states, *entry_fields(entry, image)))

    async def find_exact(self, exact_key: str) -> ImageRecord | None:
        """Return the picture remembered under `exact_key`."""
        found = await self._link.script(scripts.FIND_EXACT, PREFIX, exact_key, self._ttl)
        if not found or found[3] is None or found[3].decode() != exact_key:
            return None
        entry_id, age, prompt, _, nbytes, width, height, sha256, safety, full_seconds = found
        if int(nbytes) == 0:
            return None
        return ImageRecord(
            int(entry_id),
            prompt.decode("utf-8", "replace"),
            int(width),
            int(height),
            sha256.decode("utf-8", "replace"),
            float(age),
            _text(safety),
            parse_seconds(full_seconds),
        )

    async def image_of(self, entry_id: int, tenant: str) -> ImageRecord | None:
        """Return the picture of `tenant`'s entry; somebody else's looks like none."""
        fields = ("tenant", "prompt", "image_bytes", "image_width", "image_height", "image_sha256", "safety")
        values = await self._link.call("HMGET", f"{PREFIX}entry:{entry_id}", *fields)
        if values[0] is None or values[0].decode() != tenant or int(values[2]) == 0:
            return None
        if not await self.fresh([entry_id]):
            return None
        _, prompt, _, width, height, sha256, safety = values
        return ImageRecord(
            entry_id, _text(prompt), int(width), int(height), _text(sha256), safety_version=_text(safety)
        )

    async def note_safety(self, entry_id: int, version: str) -> None:
        """Note that a checker of this version has let an entry's picture pass."""
        await self._link.script(scripts.NOTE_SAFETY, PREFIX, entry_id, version)

    async def candidates(
        self,
        partition: str,
        near: Sequence[int],
        query: Float32Array,
        limit: int,
        *,
        lease: bool = True,
        reader: Reader | None = None,
    ) -> list[tuple[Candidate, float]]:
        """Turn neighbours into candidates, most similar first, each with the seconds it has left to live.

        Those without states, of elsewhere, past their time or not for `reader` (None = the partition's owner) drop
        out. Similarities are those of the embeddings kept here, which are exact: an index may only estimate them.
        """
        seconds = self._lease if lease else 0.0
        rules = (reader.tenant, reader.quarantine, reader.witnesses) if reader else ("", 0, 0)
        rows = await self._link.script(scripts.CANDIDATES, PREFIX, partition, self._ttl, seconds, *rules, *near)
        found = []
        for entry_id, prompt, left, age, raw, own, *records in rows:
            refs, vector = _readable_refs(int(entry_id), records), parse_embedding(raw)
            if refs and prompt is not None and vector is not None and vector.shape == query.shape:
                similarity = min(1.0, max(-1.0, float(vector @ query)))
                life = float(left) if self._ttl else float("inf")
                text, foreign = prompt.decode("utf-8", "replace"), own != b"1"
                candidate = Candidate(int(entry_id), similarity, text, refs, foreign, float(age), life)
                found.append((candidate, life))
        found.sort(key=lambda pair: -pair[0].similarity)
        return found[:limit]

    async def fresh(self, entry_ids: Sequence[int]) -> set[int]:
        """Return those of `entry_ids` that are not past their time."""
        if not self._ttl or not entry_ids:
            return set(entry_ids)
        return {int(found) for found in await self._link.script(scripts.FRESH, PREFIX, self._ttl, *entry_ids)}

    async def expired(self, limit: int) -> list[int]:
        """Return up to `limit` entries past their time, oldest first."""
        if not self._ttl:
            return []
        return _numbers(await self._link.script(scripts.EXPIRED, PREFIX, self._ttl, limit))

    async def time(self) -> tuple[float, str]:
        """Return the catalogue's time, and the offset in it as it is written; forget leases that ran out."""
        now, offset = await self._link.script(scripts.READ_CLOCK, PREFIX)
        return float(now), offset.decode()

    async def shift_time(self, offset: str, seconds: float) -> bool:
        """Set the catalogue's time forth by `seconds`, unless its offset is no longer `offset`; return whether."""
        shifted = f"{float(offset) + seconds:.6f}"
        return bool(await self._link.script(scripts.SET_CLOCK, PREFIX, offset, shifted))

    async def touch(self, entry_id: int, level: int, tenant: str = "") -> None:
        """Count `tenant`'s use of a state and make it the last used; see `CacheStore.touch`."""
        await self._link.script(scripts.TOUCH, PREFIX, entry_id, level, tenant)

    async def touch_image(self, entry_id: int) -> None:
        """Count one use of a picture and make it the most recently used."""
        await self._link.script(scripts.TOUCH_IMAGE, PREFIX, entry_id)

    async def drop_state(self, entry_id: int, level: int, reason: str, *, evict: bool = False) -> tuple[bool, float]:
        """Take a state out; as an eviction only if nobody has leased it.

        Returns:
            Whether the entry has no state left, and the seconds of the lease that kept the state, or 0.
        """
        bound = (int(evict), scripts.MOST_LEASE_SECONDS)
        leased, left = await self._link.script(scripts.DROP_STATE, PREFIX, entry_id, level, reason, *bound)
        return int(left) == 0, float(leased)

    async def drop_image(self, entry_id: int, reason: str) -> None:
        """Take a picture and its exact key out."""
        await self._link.script(scripts.DROP_IMAGE, PREFIX, entry_id, reason)

    async def clear_entry(self, entry_id: int, reason: str) -> bool:
        """Take an entry out with all it has; return whether it was there."""
        return bool(await self._link.script(scripts.CLEAR_ENTRY, PREFIX, entry_id, reason))

    async def worst_images(self, count: int) -> list[int]:
        """Return the entries whose pictures were used least recently."""
        return _numbers(await self._link.call("ZRANGE", PREFIX + "images", 0, count - 1))

    async def levels(self, entry_id: int) -> list[int]:
        """Return the noise levels an entry still holds."""
        ((levels, _),) = await self.holdings([entry_id])
        return levels

    async def holdings(self, entry_ids: Sequence[int]) -> list[tuple[list[int], bool]]:
        """Return the noise levels each entry holds, and whether it has a picture."""
        commands: list[tuple[str, ...]] = []
        for entry_id in entry_ids:
            commands.append(("HKEYS", f"{PREFIX}states:{entry_id}"))
            commands.append(("HGET", f"{PREFIX}entry:{entry_id}", "image_bytes"))
        replies = await self._link.batch(commands)
        return [
            (_numbers(name for name in names if b":" not in name), (try_number(size or b"0") or 0) > 0)
            for names, size in zip(replies[::2], replies[1::2], strict=True)
        ]

    async def is_picture(self, entry_id: int, data: bytes) -> bool:
        """Return whether `data` are the bytes of the entry's picture, as they were stored."""
        digest = await self._link.call("HGET", f"{PREFIX}entry:{entry_id}", "image_sha256")
        return digest is not None and hashlib.sha256(data).hexdigest() == digest.decode("utf-8", "replace")

    async def _states(self, entry_id: int) -> dict[bytes, bytes]:
        return dict(await self._link.call("HGETALL", f"{PREFIX}states:{entry_id}"))

    async def summary(self, entry_id: int, tenant: str) -> EntrySummary | None:
        """Return `tenant`'s entry; somebody else's looks like none."""
        values = await self._link.call("HMGET", f"{PREFIX}entry:{entry_id}", *SUMMARY_FIELDS)
        if values[0] is None or values[0].decode() != tenant or not await self.fresh([entry_id]):
            return None
        return parse_summary(entry_id, values, await self._states(entry_id), self._ttl)

    async def recent(self, tenant: str, limit: int) -> list[EntrySummary]:
        """Return `tenant`'s newest entries, newest first."""
        if limit <= 0:
            return []
        return await self.summaries(
            _numbers(await self._link.call("ZREVRANGE", f"{PREFIX}tenant:{tenant}", 0, limit - 1))
        )

    async def summaries(self, entry_ids: Sequence[int]) -> list[EntrySummary]:
        """Return what may be shown of these entries, in order, without those that are gone."""
        fresh = await self.fresh(entry_ids)
        ids = [entry_id for entry_id in entry_ids if entry_id in fresh]
        commands: list[tuple[str, ...]] = []
        for entry_id in ids:
            commands.append(("HMGET", f"{PREFIX}entry:{entry_id}", *SUMMARY_FIELDS))
            commands.append(("HGETALL", f"{PREFIX}states:{entry_id}"))
        replies = await self._link.batch(commands)
        pairs = zip(ids, replies[::2], replies[1::2], strict=True)
        found = [parse_summary(entry_id, values, states, self._ttl) for entry_id, values, states in pairs]
        return [summary for summary in found if summary]

    async def count(self, tenant: str) -> int:
        """Return how many entries a tenant has."""
        return int(await self._link.call("ZCARD", f"{PREFIX}tenant:{tenant}"))

    async def totals(self) -> Totals:
        """Return the counters."""
        entries, states, partitions, totals, evictions, last_event = await self._link.batch(
            [
                ("ZCARD", PREFIX + "entries"),
                ("ZCARD", PREFIX + "order"),
                ("SCARD", PREFIX + "partitions"),
                ("HGETALL", PREFIX + "totals"),
                ("HGETALL", PREFIX + "evictions"),
                ("GET", PREFIX + "events:seq"),
            ]
        )
        return Totals(
            entries=int(entries),
            states=int(states),
            partitions=int(partitions),
            state_bytes=int(totals.get(b"state_bytes", 0)),
            image_bytes=int(totals.get(b"image_bytes", 0)),
            evictions={reason.decode(): int(count) for reason, count in evictions.items()},
            last_event=int(last_event or 0),
        )

    async def partitions(self) -> list[str]:
        """Return the digests of all signatures that hold a state."""
        return sorted(
            member.decode("utf-8", "replace") for member in await self._link.call("SMEMBERS", PREFIX + "partitions")
        )

    async def embeddings(self, partition: str) -> AsyncIterator[list[tuple[int, bytes | None]]]:
        """Yield (entry id, raw embedding) of a partition's entries, a page at a time."""
        ids = sorted(_numbers(await self._link.call("SMEMBERS", f"{PREFIX}partition:{partition}")))
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            replies: list[Any] = await self._link.batch([("HGET", f"{PREFIX}entry:{i}", "embedding") for i in page])
            yield list(zip(page, replies, strict=True))

    async def members_of(self, partition: str, entry_ids: Sequence[int]) -> set[int]:
        """Return those entries that are listed in a partition."""
        key = f"{PREFIX}partition:{partition}"
        replies = await self._link.batch([("SISMEMBER", key, str(entry_id)) for entry_id in entry_ids])
        return {entry_id for entry_id, there in zip(entry_ids, replies, strict=True) if there}

    async def last_event(self) -> Mark:
        """Return the newest event's mark."""
        newest = await self._link.call("XREVRANGE", PREFIX + "events", "+", "-", "COUNT", 1)
        return parse_event(*newest[0]).mark if newest else Mark()

    async def all_states(self) -> AsyncIterator[list[Holding]]:
        """Yield every state with its uses, a page at a time, in no order.

        A scan, since it misses none that is there throughout, whatever is used meanwhile.
        """
        cursor = 0
        while True:
            cursor, members = await self._link.call("ZSCAN", PREFIX + "order", cursor, "COUNT", _PAGE)
            yield await self._holdings([key for member, _ in members if (key := _try_member(member))])
            cursor = int(cursor)
            if cursor == 0:
                return

    async def remains(self, entry_id: int, level: int) -> tuple[str, bytes | None, Item] | None:
        """Return (partition, raw embedding, item) of a state about to be evicted; None when it is gone."""
        (partition, raw), record = await self._link.batch(
            [
                ("HMGET", f"{PREFIX}entry:{entry_id}", "partition", "embedding"),
                ("HMGET", f"{PREFIX}states:{entry_id}", str(level), f"{level}:u", f"{level}:l"),
            ]
        )
        held = _parse_holding((entry_id, level), record)
        return None if held is None or partition is None else (partition.decode("utf-8", "replace"), raw, held.item)

    async def states_of(self, entry_ids: Sequence[int]) -> list[Holding]:
        """Return all states that some entries hold."""
        replies = await self._link.batch([("HKEYS", f"{PREFIX}states:{i}") for i in entry_ids])
        found = zip(entry_ids, replies, strict=True)
        levels = [(i, _numbers(name for name in names if b":" not in name)) for i, names in found]
        return await self._holdings([(i, level) for i, names in levels for level in names])

    async def _holdings(self, keys: Sequence[tuple[int, int]]) -> list[Holding]:
        commands = [("HMGET", f"{PREFIX}states:{i}", str(at), f"{at}:u", f"{at}:l") for i, at in keys]
        replies = await self._link.batch(commands)
        return [held for key, reply in zip(keys, replies, strict=True) if (held := _parse_holding(key, reply))]

    async def events_after(self, mark: Mark) -> list[Event]:
        """Return the next page of events, oldest first.

        Raises:
            HistoryLost: the event at the mark is gone, or is another one; some may have been missed.
        """
        start = f"{mark.sequence}-0"
        raw = await self._link.call("XRANGE", PREFIX + "events", start, "+", "COUNT", _PAGE + 1)
        events = [parse_event(name, fields) for name, fields in raw]
        if mark.sequence == 0:
            if events and events[0].sequence != 1:
                raise HistoryLost("the first events are gone")
            return events
        if not events or events[0].mark != mark:
            raise HistoryLost("the event last seen is gone")
        return events[1:]

    async def holding(self, entry_ids: Sequence[int]) -> set[int]:
        """Return those entries that hold a state."""
        counts = await self._link.batch([("HLEN", f"{PREFIX}states:{entry_id}") for entry_id in entry_ids])
        return {entry_id for entry_id, count in zip(entry_ids, counts, strict=True) if count}

    async def vectors(self, entry_ids: Sequence[int]) -> list[tuple[int, str, bytes | None]]:
        """Return (entry id, partition, raw embedding) of those entries that hold a state."""
        commands: list[tuple[str, ...]] = []
        for entry_id in entry_ids:
            commands.append(("HLEN", f"{PREFIX}states:{entry_id}"))
            commands.append(("HMGET", f"{PREFIX}entry:{entry_id}", "partition", "embedding"))
        replies = await self._link.batch(commands)
        rows = zip(entry_ids, replies[::2], replies[1::2], strict=True)
        return [
            (i, home.decode("utf-8", "replace"), raw) for i, held, (home, raw) in rows if held and home is not None
        ]


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode("utf-8", "replace")


def _numbers(names: Iterable[bytes]) -> list[int]:
    """Return the numbers among `names`; what else there is, a repair will take away."""
    numbers, count = [], 0
    for name in names:
        count += 1
        if (number := try_number(name)) is not None:
            numbers.append(number)
    if len(numbers) < count:
        log.warning("the catalogue holds %d unreadable names where numbers belong", count - len(numbers))
    return numbers


def _try_member(member: bytes) -> tuple[int, int] | None:
    """Return the key a member of the order stands for; None for one that a repair will take away."""
    try:
        return parse_member(member.decode())
    except ValueError:
        log.warning("the eviction order holds an unreadable name")
        return None


def _parse_holding(key: tuple[int, int], reply: Sequence[bytes | None]) -> Holding | None:
    raw, uses, last_used = reply
    if raw is None:
        return None
    try:
        record = StateRecord.parse(raw)
        return Holding(key, record.item, int(uses or 0), record.created, int(last_used or record.created))
    except (ValueError, TypeError):
        log.warning("the state records of entry %d are unreadable", key[0])
        return None


def _readable_refs(entry_id: int, records: Sequence[bytes]) -> tuple[StateRef, ...]:
    try:
        refs = [ref for raw in records for ref in StateRecord.parse(raw).refs]
    except (ValueError, TypeError):
        log.warning("the state records of entry %d are unreadable", entry_id)
        return ()
    return tuple(sorted(refs, key=lambda ref: ref.skip))
