"""How each answered generation came about, for a while: records in the catalogue, beside the entries.

A record outlives the noise states and even the entry of its generation, so that what was evicted can be made again.
It is bounded in number and age, and deleted with whatever names its tenant, its user, its time or its entry.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from cache_store.catalogue import PREFIX
from cache_store.link import RedisLink
from cache_store.scans import Scans, text_of
from cache_store.selection import Selection

_LIST = "generations"
_BATCH = 100
# A record that waits longer than this to be written is lost: so long the selections forgotten meanwhile are kept.
_MOST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One answered generation.

    Attributes:
        generation: its id, as the client was told.
        tenant: whose it is; nobody else finds it.
        user: `user_digest` of whom it was drawn for, empty = nobody named.
        body: what the service says of it; nothing in here reads it.
        repeats: the entry whose stored picture was returned, None for a run.
        source: the entry that was resumed from or repeated, None where there is none, or `tenant` may not know.
        noted: time.monotonic() of its answer.
        created: Unix seconds of the Redis host; 0 until it is written.
        entry_id: what the run is remembered as; None = it is not, or not yet.
    """

    generation: str
    tenant: str
    user: str
    body: str
    repeats: int | None = None
    noted: float = 0.0
    created: float = 0.0
    entry_id: int | None = None
    source: int | None = None


class Generations:
    """Typed access to the records; call only inside the link's guard."""

    def __init__(self, link: RedisLink, *, seconds: float, most: int) -> None:
        """Use `link`.

        Args:
            link: the connection.
            seconds: age from which a record is gone.
            most: records kept, of all tenants together; the oldest goes first. 0 = none at all.
        """
        self._link = link
        self._scans = Scans(link)
        self._seconds = max(1, round(seconds))
        self._most = most if seconds > 0 else 0
        self._forgotten: deque[tuple[float, Selection | frozenset[str]]] = deque()

    @property
    def kept(self) -> bool:
        """Whether any record is kept."""
        return self._most > 0

    async def write(self, record: GenerationRecord) -> bool:
        """Keep a record; False when none are kept, or it was forgotten while it waited to be written."""
        if not self.kept or self._forgotten_since(record):
            return False
        about = (record.generation, record.tenant, record.user, record.repeats or "", record.source or "")
        await self._link.script(_WRITE, PREFIX, *about, self._seconds, self._most, record.body)
        return True

    async def link(self, generation: str, entry_id: int) -> None:
        """Note that a generation is remembered as an entry; either may be written first."""
        if self.kept:
            await self._link.script(_LINK, PREFIX, generation, entry_id, self._seconds)

    async def find(self, generation: str, tenant: str) -> GenerationRecord | None:
        """Return `tenant`'s record; one that is not there and one of somebody else look the same."""
        return (await self._read([generation], tenant))[0]

    async def makers(self, entry_ids: Sequence[int], tenant: str) -> list[GenerationRecord | None]:
        """Return, per entry, the record of the generation it remembers, whether or not the entry is still there."""
        makers = await self._link.batch([("GET", f"{PREFIX}maker:{entry_id}") for entry_id in entry_ids])
        names = [text_of(maker) for maker in makers if maker is not None]
        found = iter(await self._read(names, tenant))
        return [None if maker is None else next(found) for maker in makers]

    async def _read(self, generations: Sequence[str], tenant: str) -> list[GenerationRecord | None]:
        """Return several records in one round trip."""
        commands: list[tuple[str, ...]] = []
        for name in generations:
            commands.append(("HMGET", f"{PREFIX}generation:{name}", "tenant", "user", "body", "repeats", "created"))
            commands.append(("GET", f"{PREFIX}made:{name}"))
        rows = await self._link.batch(commands)
        return [_parsed(tenant, *row) for row in zip(generations, rows[::2], rows[1::2], strict=True)]

    async def descendants(
        self, entry_id: int, tenant: str, *, before: str | None, limit: int
    ) -> tuple[list[GenerationRecord], str | None]:
        """Return `tenant`'s records that came from an entry, newest first, and where to go on (None: the end).

        A record that has just gone leaves a gap, so there may be fewer than `limit` though it is not the end.
        """
        highest = "+inf" if before is None else f"({before}"
        bounds = (highest, "-inf", "WITHSCORES", "LIMIT", 0, limit + 1)
        rows = await self._link.call("ZREVRANGEBYSCORE", f"{PREFIX}from:{tenant}:{entry_id}", *bounds)
        names, scores = rows[::2][:limit], rows[1::2]
        found = await self._read([text_of(name) for name in names], tenant)
        place = text_of(scores[limit - 1]) if len(scores) > limit else None
        return [record for record in found if record is not None], place

    async def count(self) -> int:
        """Return how many records there are."""
        return int(await self._link.call("ZCARD", PREFIX + _LIST))

    async def forget(self, selection: Selection) -> int:
        """Forget the records a selection names, those still waiting to be written here too; return how many."""
        self._note(selection)
        forgotten = 0
        async for page in self._named(selection):
            fields = ("tenant", "user", "created")
            rows = await self._link.batch([("HMGET", f"{PREFIX}generation:{name}", *fields) for name in page])
            meant = [name for name, row in zip(page, rows, strict=True) if _matches(selection, row)]
            for start in range(0, len(meant), _BATCH):
                forgotten += await self._drop(meant[start : start + _BATCH])
        return forgotten

    async def forget_entries(self, entry_ids: Sequence[int]) -> None:
        """Forget every record that tells of these entries' own pictures."""
        for entry_id in entry_ids:
            await self._drop(await self._of_entry(entry_id))

    async def _named(self, selection: Selection) -> AsyncIterator[list[str]]:
        """Yield records among which the selection's are, by the narrowest list there is."""
        if selection.entry_ids is not None:
            for entry_id in selection.entry_ids:
                yield await self._of_entry(entry_id)
            return
        name = _LIST if selection.everybody else f"{_LIST}:{selection.tenant}"
        async for page in self._scans.sorted_members(name):
            yield page

    async def _of_entry(self, entry_id: int) -> list[str]:
        maker, repeats = await self._link.batch(
            [("GET", f"{PREFIX}maker:{entry_id}"), ("SMEMBERS", f"{PREFIX}repeats:{entry_id}")]
        )
        return [text_of(name) for name in (*([maker] if maker else []), *repeats)]

    async def _drop(self, generations: Sequence[str]) -> int:
        if not generations:
            return 0
        # One of them may be known by its entry, and not yet written itself.
        self._note(frozenset(generations))
        return int(await self._link.script(_FORGET, PREFIX, *generations))

    def _note(self, forgotten: Selection | frozenset[str]) -> None:
        """Keep in mind what was forgotten, for records that wait to be written."""
        now = time.monotonic()
        while self._forgotten and now - self._forgotten[0][0] > _MOST_WAIT_SECONDS:
            self._forgotten.popleft()
        self._forgotten.append((now, forgotten))

    def _forgotten_since(self, record: GenerationRecord) -> bool:
        late = time.monotonic() - record.noted > _MOST_WAIT_SECONDS
        return late or any(when >= record.noted and _means(forgotten, record) for when, forgotten in self._forgotten)


def _parsed(
    tenant: str, generation: str, fields: Sequence[bytes | None], entry: bytes | None
) -> GenerationRecord | None:
    whose, user, body, repeats, created = fields
    if whose is None or body is None or whose.decode() != tenant:
        return None
    return GenerationRecord(
        generation=generation,
        tenant=tenant,
        user=(user or b"").decode(),
        body=body.decode(),
        repeats=int(repeats) if repeats else None,
        created=float(created or 0.0),
        entry_id=int(entry) if entry else None,
    )


def _means(selection: Selection | frozenset[str], record: GenerationRecord) -> bool:
    """Tell whether a record that is not written yet is meant."""
    if isinstance(selection, frozenset):
        return record.generation in selection
    if selection.entry_ids is not None and record.repeats not in selection.entry_ids:
        return False
    return selection.matches(record.tenant, record.user, time.time())


def _matches(selection: Selection, row: Sequence[bytes | None]) -> bool:
    tenant, user, created = row
    if tenant is None:
        return False
    return selection.matches(tenant.decode(), (user or b"").decode(), float(created or 0.0))


_DROP = """
local P = ARGV[1]
local function drop(id)
  local key = P .. 'generation:' .. id
  local f = redis.call('HMGET', key, 'tenant', 'repeats', 'source')
  local entry = redis.call('GET', P .. 'made:' .. id)
  if entry then redis.call('DEL', P .. 'maker:' .. entry, P .. 'made:' .. id) end
  if f[2] then redis.call('SREM', P .. 'repeats:' .. f[2], id) end
  if f[1] then redis.call('ZREM', P .. 'generations:' .. f[1], id) end
  if f[3] then redis.call('ZREM', P .. 'from:' .. f[1] .. ':' .. f[3], id) end
  redis.call('ZREM', P .. 'generations', id)
  return redis.call('DEL', key)
end
"""

_WRITE = (
    _DROP
    + """
local id, tenant, user, repeats, source, ttl, most, body = unpack(ARGV, 2)
local key, t = P .. 'generation:' .. id, redis.call('TIME')
local now = string.format('%.6f', t[1] + t[2] / 1000000)
redis.call('HSET', key, 'tenant', tenant, 'user', user, 'created', now, 'body', body)
redis.call('EXPIRE', key, ttl)
if repeats ~= '' then
  redis.call('HSET', key, 'repeats', repeats)
  redis.call('SADD', P .. 'repeats:' .. repeats, id)
  redis.call('EXPIRE', P .. 'repeats:' .. repeats, ttl)
end
local lists = {P .. 'generations', P .. 'generations:' .. tenant}
if source ~= '' then
  redis.call('HSET', key, 'source', source)
  lists[3] = P .. 'from:' .. tenant .. ':' .. source
end
for _, list in ipairs(lists) do
  redis.call('ZREMRANGEBYSCORE', list, '-inf', string.format('(%.6f', now - ttl))
  redis.call('ZADD', list, now, id)
end
if lists[3] then redis.call('EXPIRE', lists[3], ttl) end
local over = redis.call('ZCARD', P .. 'generations') - most
if over > 0 then
  -- A bound that was lowered is reached in a few writes, none of which takes long.
  for _, old in ipairs(redis.call('ZRANGE', P .. 'generations', 0, math.min(over, 100) - 1)) do drop(old) end
end
return 1
"""
)
"""ARGV: prefix, id, tenant, user digest or nothing, entry repeated or nothing, entry it came from or nothing, seconds
to live, most records, body.
"""

_LINK = """
local P, id, entry, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('SET', P .. 'made:' .. id, entry, 'EX', ttl)
redis.call('SET', P .. 'maker:' .. entry, id, 'EX', ttl)
return 1
"""
"""ARGV: prefix, id, entry id, seconds to live."""

_FORGET = (
    _DROP
    + """
local count = 0
for i = 2, #ARGV do count = count + drop(ARGV[i]) end
return count
"""
)
"""ARGV: prefix, ids. Returns how many were there."""
