"""What clients come back for, for a while: jobs, answers stored under an idempotency key, pictures by URL.

A deposit is a small text in the catalogue and, if it has any, bytes in the object store. Deposits are bounded in age,
in number per tenant and kind, and in bytes together; the oldest go first. They hold copies of what was answered, so
they are forgotten with whatever names their tenant, their user or their time.
"""

import asyncio
import hashlib
import logging
import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Literal

from cache_store.catalogue import PREFIX
from cache_store.deposit_scripts import CREATE, DROP, EXPIRED, FIND, FLAG, UPDATE
from cache_store.link import RedisLink
from cache_store.objects import Objects
from cache_store.scans import Scans, text_of
from cache_store.selection import Selection
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

Kind = Literal["job", "answer", "image"]
_PATH = re.compile(r"deposits/(job|answer|image)/[0-9a-f]{2}/([0-9a-f]{32,64})")
_NAME = re.compile(r"[0-9a-f]{32,64}")
_PERIOD_SECONDS = 5.0
_BUSY_SECONDS = 0.1
_BATCH = 100
_BACKGROUND_SECONDS = 10.0
_FORGOTTEN_SECONDS = 3600

DELETED = "deleted"
"""The flag of a job that is not there because somebody deleted it, rather than being lost or pushed out."""


@dataclass(frozen=True, slots=True)
class Deposit:
    """One deposit.

    Attributes:
        kind: what it is.
        name: its id, hexadecimal.
        number: rises with the time of creation; no two are alike.
        body: what the service says of it; nothing in here reads it.
        size: bytes it has in the object store.
        sha256: of these bytes, empty without any.
        flag: what another service asks of its owner, empty = nothing.
        seconds_left: to live.
        idle_seconds: since it was last written.
    """

    kind: Kind
    name: str
    number: int
    body: str
    size: int
    sha256: str
    flag: str
    seconds_left: float
    idle_seconds: float


@dataclass(frozen=True, slots=True)
class DepositBounds:
    """How long a deposit lives (seconds), how many a tenant has of a kind, how many bytes all have together."""

    seconds: float
    most: int
    most_bytes: int


class Deposits:
    """Keeps deposits; every method is bounded in time and raises `CacheUnavailable`, and nothing else, as a fault.

    Args:
        link: to the catalogue.
        objects: where bytes lie.
        bounds: of all deposits.
        timeout_seconds: bound on an operation that a request waits for.
    """

    def __init__(self, link: RedisLink, objects: Objects, bounds: DepositBounds, timeout_seconds: float) -> None:
        self.bounds = bounds
        self._link = link
        self._objects = objects
        self._scans = Scans(link)
        self._timeout = timeout_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to delete what is past its time."""
        self._task = asyncio.create_task(self._collect(), name="deposit-collector")

    async def close(self) -> None:
        """Stop that."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def create(
        self,
        kind: Kind,
        name: str,
        tenant: str,
        body: str,
        *,
        user: str = "",
        data: bytes = b"",
        seconds: float | None = None,
    ) -> bool:
        """Make a deposit; False when there is one of this name already, of whomever.

        Args:
            kind: what it is.
            name: its id, 32 to 64 hexadecimal digits.
            tenant: whose it is; nobody else finds it.
            body: what it says.
            user: `user_digest` of whom it is for, empty = nobody named.
            data: bytes to keep in the object store.
            seconds: to live; None = as long as any may.
        """
        about = (kind, name, tenant, user, self._lifetime(seconds), body, len(data), _digest(data))
        async with self._guard():
            reply = await self._link.script(CREATE, PREFIX, *about, self.bounds.most, self.bounds.most_bytes)
        if reply is None:
            return False
        await self._delete([text_of(member) for member in reply])
        if data:
            try:
                await self._put(kind, name, data, tenant)
            except CacheUnavailable:
                await self.drop(kind, name, tenant)
                raise
        return True

    async def update(
        self, kind: Kind, name: str, tenant: str, body: str, *, data: bytes = b"", seconds: float | None = None
    ) -> str | None:
        """Write a deposit anew; return its flag, `DELETED` for a job that was deleted, or None when it is not there.

        Args:
            kind: what it is.
            name: its id.
            tenant: whose it is.
            body: what it says now.
            data: bytes it has from now on; none leaves those it has.
            seconds: to live from now on; None = as long as any may.
        """
        if data:
            await self._put(kind, name, data, tenant)
        about = (kind, name, tenant, self._lifetime(seconds), body, len(data), _digest(data))
        async with self._guard():
            reply = await self._link.script(UPDATE, PREFIX, *about, self.bounds.most_bytes)
        if reply is None:
            return None
        if isinstance(reply, bytes):
            return DELETED
        flag, *shed = (text_of(part) for part in reply)
        await self._delete(shed)
        return flag

    async def find(self, kind: Kind, name: str, tenant: str) -> Deposit | None:
        """Return `tenant`'s deposit; none and not yours look the same."""
        found = await self._read(kind, [name], tenant)
        return found[0] if found else None

    async def data(self, deposit: Deposit) -> bytes | None:
        """Return a deposit's bytes, None when they are gone or damaged."""
        async with self._objects.guard(self._deadline()):
            data = await self._objects.get(self._path(deposit.kind, deposit.name))
        return data if data is not None and _digest(data) == deposit.sha256 else None

    async def page(self, kind: Kind, tenant: str, *, below: int | None, limit: int) -> list[Deposit]:
        """Return up to `limit` of `tenant`'s deposits, newest first, of those whose number is below `below`."""
        highest = "+inf" if below is None else f"({below}"
        async with self._guard():
            bounds = (highest, "-inf", "LIMIT", 0, limit)
            names = await self._link.call("ZREVRANGEBYSCORE", f"{PREFIX}deposits:{kind}:{tenant}", *bounds)
        return await self._read(kind, [text_of(name) for name in names], tenant)

    async def flag(self, kind: Kind, name: str, tenant: str, flag: str) -> bool:
        """Ask something of a deposit's owner, who sees it at its next update; False when it is not there."""
        async with self._guard():
            return bool(await self._link.script(FLAG, PREFIX, kind, name, tenant, flag))

    async def drop(self, kind: Kind, name: str, tenant: str) -> bool:
        """Delete a deposit; return whether it was there and `tenant`'s."""
        if await self.find(kind, name, tenant) is None:
            return False
        await self._drop([f"{kind}:{name}"], self._timeout, _FORGOTTEN_SECONDS)
        return True

    async def all_jobs(self) -> list[tuple[str, str]]:
        """Return name and tenant of every job of everybody, for whoever starts after a crash."""
        return [(name, tenant) for kind, name, tenant in await self._owners() if kind == "job"]

    async def known(self, names: Sequence[str]) -> set[str]:
        """Return those of `names` that are objects of deposits; call only inside the link's guard."""
        head = f"{self._objects.store_id}/"
        found = {name: match for name in names if (match := _PATH.fullmatch(name.removeprefix(head))) is not None}
        commands = [("EXISTS", f"{PREFIX}deposit:{match[1]}:{match[2]}") for match in found.values()]
        there = await self._link.batch(commands)
        return {name for name, exists in zip(found, there, strict=True) if exists}

    async def forget(self, selection: Selection) -> None:
        """Delete those a selection names by tenant, user and time."""
        if selection.entry_ids is not None:
            return
        members = [f"{kind}:{name}" for kind, name, _ in await self._owners(selection)]
        for start in range(0, len(members), _BATCH):
            await self._drop(members[start : start + _BATCH], _BACKGROUND_SECONDS, _FORGOTTEN_SECONDS)

    async def _owners(self, selection: Selection | None = None) -> list[tuple[str, str, str]]:
        """Return kind, name and tenant of all deposits, or of those a selection means."""
        found = []
        async with self._link.guard(asyncio.get_running_loop().time() + _BACKGROUND_SECONDS):
            async for page in self._scans.sorted_members("deposits"):
                fields = ("tenant", "user", "created")
                rows = await self._link.batch([("HMGET", f"{PREFIX}deposit:{member}", *fields) for member in page])
                for member, (tenant, user, created) in zip(page, rows, strict=True):
                    kind, _, name = member.partition(":")
                    whose = "" if tenant is None else text_of(tenant)
                    stamp = float(created or 0.0)
                    if selection is None or selection.matches(whose, text_of(user or b""), stamp):
                        found.append((kind, name, whose))
        return found

    async def _read(self, kind: Kind, names: Sequence[str], tenant: str) -> list[Deposit]:
        if not all(_NAME.fullmatch(name) for name in names):
            return []
        async with self._guard():
            rows = await self._link.script(FIND, PREFIX, kind, tenant, *names)
        return [_parsed(kind, row) for row in rows]

    async def _collect(self) -> None:
        pause = _PERIOD_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = _PERIOD_SECONDS
            with suppress(CacheUnavailable):
                pause = _BUSY_SECONDS if await self.collect() == _BATCH else _PERIOD_SECONDS

    async def collect(self) -> int:
        """Delete a batch of what is past its time; return how many. Raises CacheUnavailable."""
        async with self._link.guard(asyncio.get_running_loop().time() + _BACKGROUND_SECONDS):
            members = await self._link.script(EXPIRED, PREFIX, _BATCH)
        if members:
            await self._drop([text_of(member) for member in members], _BACKGROUND_SECONDS)
        return len(members)

    async def _drop(self, members: Sequence[str], seconds: float, mark_seconds: int = 0) -> None:
        async with self._link.guard(asyncio.get_running_loop().time() + seconds):
            with_bytes = await self._link.script(DROP, PREFIX, mark_seconds, *members)
        await self._delete([text_of(member) for member in with_bytes])

    async def _delete(self, members: Sequence[str]) -> None:
        """Delete the bytes of deposits that are no more; what cannot be deleted now, the store's sweep finds."""
        with suppress(CacheUnavailable):
            for member in members:
                kind, _, name = member.partition(":")
                async with self._objects.guard(self._deadline(), writes=True):
                    await self._objects.delete(self._path(kind, name))

    async def _put(self, kind: Kind, name: str, data: bytes, tenant: str) -> None:
        if not self._objects.store_id:
            raise CacheUnavailable("the catalogue has not been reached yet")
        async with self._objects.guard(self._deadline(), writes=True):
            await self._objects.put(self._path(kind, name), data, tenant)

    def _path(self, kind: str, name: str) -> str:
        return f"{self._objects.store_id}/deposits/{kind}/{name[:2]}/{name}"

    def _lifetime(self, seconds: float | None) -> float:
        return self.bounds.seconds if seconds is None else min(seconds, self.bounds.seconds)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    def _guard(self) -> AbstractAsyncContextManager[None]:
        return self._link.guard(self._deadline())


def _parsed(kind: Kind, row: Sequence[bytes]) -> Deposit:
    name, number, body, size, sha256, flag, left, idle = (text_of(part) for part in row)
    return Deposit(kind, name, int(number), body, int(size), sha256, flag, float(left), float(idle))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if data else ""
